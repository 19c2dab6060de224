"""`unitok import | export | verify`: published checkpoints to folders of ours, and back."""

import argparse
import json
import math
import re
from pathlib import Path

from unitok_jax.config import load_config, to_json
from unitok_jax.conversion.exporting import export_checkpoint
from unitok_jax.conversion.importing import import_checkpoints
from unitok_jax.conversion.verifying import verify_export
from unitok_jax.errors import UserError
from unitok_jax.weights.hub import is_hub_id, locate

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def import_(args: argparse.Namespace) -> None:
    """Imports checkpoints into one folder and prints each part with where it came from."""
    recipe = json.loads(to_json(load_config(args.config))) if args.config else None
    done = import_checkpoints(
        args.checkpoints,
        Path(args.out),
        system=args.system,
        variant=args.variant,
        vocabulary=args.vocabulary,
        recipe=recipe,
        revision=args.revision,
    )
    for artefact, where in done.artefacts.items():
        print(f"{artefact}\t{where}")
    for part, where in done.parts.items():
        print(f"part {part}\t{where}")
    for note in done.notes:
        print(f"note\t{note}")
    print(f"imported\t{args.out}")


def export(args: argparse.Namespace) -> None:
    """Exports a run's parameters and prints what was written, and what the format has no place for."""
    if (args.workdir is None) == (args.checkpoint is None):
        raise UserError("give --workdir (its last step) or --checkpoint (one step's folder), one of the two")
    done = export_checkpoint(
        args.workdir or args.checkpoint,
        Path(args.out),
        form=args.format,
        max_shard=_size(args.max_shard_size),
        dtype=args.dtype,
    )
    for each in done.written:
        print(
            f"{each.layout.artefact}\t{each.tensors} tensors, {each.parameters:,} parameters ({', '.join(each.parts)})"
        )
    if done.left:
        print(f"not written\t{', '.join(done.left)}")
    print(f"exported\t{args.out}")


def verify(args: argparse.Namespace) -> None:
    """Prints, of each artefact, the largest differences between ours and torch's.

    Raises:
        UserError: if one is larger than the tolerance.
    """
    worst, most = "", -1.0
    for each in verify_export(_found(args.export), args.seed):
        print(f"{each.artefact}\t{each.kind}\t{each.what}\t{each.difference:.2e}", flush=True)
        if not (each.difference <= most or math.isnan(most)):  # NaN counts as the worst
            worst, most = f"{each.artefact}, {each.what}", each.difference
    if not most <= args.tolerance:
        raise UserError(f"{args.export}: {worst} differs by {most:.2e}, more than --tolerance {args.tolerance:g}")


def _found(place: str) -> Path:
    """A folder, fetched where it is a hub id."""
    return locate(place).path if is_hub_id(place) else Path(place)


def _size(text: str) -> int:
    """``5GB`` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.lower())
    if not match or match[2] not in UNITS or float(match[1]) <= 0:
        raise UserError(f"--max-shard-size {text}: expected a size such as 5GB or 500MB")
    return int(float(match[1]) * UNITS[match[2]])
