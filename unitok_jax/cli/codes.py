"""`unitok tokenize`."""

import argparse
import sys

import jax

from unitok_jax.cli.prepare import print_counts, source_options
from unitok_jax.config import load_config
from unitok_jax.conversion.loading import load_run, using
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError, writing
from unitok_jax.inference.tokenize import tokenize_source
from unitok_jax.parallel import distributed
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import read_config


def tokenize(args: argparse.Namespace) -> None:
    """Writes a source's codes as shards and prints how many records were written, and skipped by reason."""
    if args.shards < 1:
        raise UserError(f"--shards: expected 1 or more, got {args.shards}")
    distributed.initialize()
    kind, options = args.source[0], source_options(args.source[1:])
    source = open_source(kind, options, "--source")
    recipe = read_config(load_config(args.config))[0] if args.config else None
    pipeline, config = load_run(args.workdir, args.mesh, recipe)
    meta = {"system": config.system, "weights": str(find_step(args.workdir)), "source": {"kind": kind, **options}}
    if args.config:
        meta["config"] = args.config
    with using(pipeline, config), writing(args.out):
        counts = tokenize_source(
            pipeline,
            source,
            args.out,
            meta,
            shards=args.shards,
            keep_pictures=not args.drop_pictures,
            max_bad_share=args.max_bad_share,
            process=(jax.process_index(), jax.process_count()),
            progress=_tell,
        )
    print_counts(counts)


def _tell(done: int, total: int) -> None:
    print(f"{done}/{total} records", file=sys.stderr, flush=True)
