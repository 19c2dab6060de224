"""`unitok prepare`, and what it shares with `unitok tokenize`: the options of a source, the counts of records."""

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from unitok_jax.data.preparing import PrepareJob
from unitok_jax.errors import UserError, writing


def prepare(args: argparse.Namespace) -> None:
    """Writes a raw data set as checked shards and prints how many records were written, and skipped by reason."""
    kind, options = args.source[0], source_options(args.source[1:])
    job = PrepareJob(kind, options, args.out, args.shards, args.task)
    try:
        from unitok_jax.data import beam_jobs
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise UserError("prepare runs on Apache Beam, which is missing: pip install 'unitok-jax[beam]'") from None
    with writing(args.out):
        missing = job.missing()
        print(f"{len(missing)} of {job.shards} shards to make", file=sys.stderr, flush=True)
        if missing:
            beam_jobs.run_shards(job.open, missing, args.runner, [f"--{item}" for item in args.beam])
        counts = job.report(args.max_bad_share)
    print_counts(counts)


def source_options(items: Sequence[str]) -> dict[str, Any]:
    """``key=value`` each; a value is a Python literal, else text.

    Raises:
        UserError: for anything else.
    """
    options: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--source: an option of a source reads key=value, got {item!r}")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options


def print_counts(counts: Mapping[str, int]) -> None:
    """One line a name, a tab before its number."""
    for name, count in counts.items():
        print(f"{name}\t{count}")
