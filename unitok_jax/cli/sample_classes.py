"""Draws pictures of every class with a class-conditional model, as FID is computed from.

    python -m unitok_jax.cli.sample_classes --workdir runs/uniwetok/c2i-B --out samples --guidance 3.2

Writes ``OUT/<class>/<number>.png`` and ``OUT/samples.npz``, whose ``arr_0`` is uint8 [N, H, W, 3] with the classes in
order, for the evaluator of OpenAI's guided-diffusion. A job that was killed goes on with the classes it lacks.
"""

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from unitok_jax.conversion.loading import load_run
from unitok_jax.errors import UserError, writing
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems.base import DrawsClasses
from unitok_jax.training.checkpoints import find_step

SETTINGS = "settings.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 2 after a mistake that the user can mend."""
    try:
        sample(_parser().parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def sample(args: argparse.Namespace) -> None:
    """Draws, class after class, and joins everything at the end."""
    pipeline, config = load_run(args.workdir, args.mesh)
    system = pipeline.system
    if not isinstance(system, DrawsClasses) or "generator" not in pipeline.params:
        raise UserError(
            f"{args.workdir}: a run of {config.system}, stage {config.stage}, which has no class-conditional model; "
            "take a run of stage c2i"
        )
    if min(args.per_class, args.batch, args.steps) < 1:
        raise UserError("--per-class, --batch and --steps: expected 1 or more")
    if not math.isfinite(args.guidance):
        raise UserError(f"--guidance {args.guidance}: expected a number")
    settings = {"steps": args.steps, "guidance": args.guidance, "schedule": args.schedule}
    draw = jax.jit(functools.partial(system.draw_classes, **settings))
    out, known = epath.Path(args.out), system.config.generator.classes
    classes = args.classes or known
    if not 1 <= classes <= known:
        raise UserError(f"--classes: the model has {known}, got {classes}")
    with writing(out):
        _claim(
            out, {**settings, "weights": str(find_step(args.workdir)), "per_class": args.per_class, "seed": args.seed}
        )
        for label in range(classes):
            _one_class(pipeline, draw, out, label, args)
        _join(out, classes, args.per_class)


def _claim(out: epath.Path, settings: Mapping[str, Any]) -> None:
    """Keeps what the pictures were drawn with beside them, so that a job goes on with nothing else."""
    path = out / SETTINGS
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1))
        return
    found = json.loads(path.read_text())
    for name, value in settings.items():
        if found.get(name) != value:
            raise UserError(
                f"{out}: holds pictures drawn with {name} = {found.get(name)}, not {value}; take another --out"
            )


def _one_class(pipeline: Pipeline, draw: Callable, out: epath.Path, label: int, args: argparse.Namespace) -> None:
    folder = out / f"{label:04d}"
    if folder.exists():
        return
    seeds = args.seed + label * args.per_class + np.arange(args.per_class)
    seeds = np.pad(seeds, (0, -args.per_class % args.batch), mode="edge").reshape(-1, args.batch)
    labels = pipeline.place(np.full(args.batch, label, np.int32))
    with pipeline.on_mesh():
        drawn = [pipeline.system.to_uint8(draw(pipeline.params, labels, sample_keys(part))) for part in seeds]
    drawn = np.concatenate(drawn)[: args.per_class]
    draft = out / f"{label:04d}.tmp"
    draft.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(drawn):
        with (draft / f"{number:04d}.png").open("wb") as file:
            Image.fromarray(picture).save(file, "PNG")
    draft.rename(folder)


def _join(out: epath.Path, classes: int, per_class: int) -> None:
    names = [out / f"{label:04d}" / f"{number:04d}.png" for label in range(classes) for number in range(per_class)]
    pictures = []
    for name in names:
        with name.open("rb") as file:
            pictures.append(np.asarray(Image.open(file).convert("RGB")))
    draft = out / "samples.npz.tmp"
    with draft.open("wb") as file:
        np.savez(file, arr_0=np.stack(pictures))
    draft.replace(out / "samples.npz")
    print(out / "samples.npz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unitok_jax.cli.sample_classes", description=__doc__)
    parser.add_argument("--workdir", required=True, help="of a run of stage c2i")
    parser.add_argument("--mesh", metavar="AXIS=SIZE,...", help="devices along each axis (default: all share one copy)")
    parser.add_argument("--out", required=True, help="folder of the pictures")
    parser.add_argument("--per-class", type=int, default=50, help="pictures of each class (default: 50)")
    parser.add_argument("--classes", type=int, default=0, help="the first so many classes (default: all)")
    parser.add_argument("--steps", type=int, default=100, help="of the solver (default: 100)")
    parser.add_argument("--guidance", type=float, default=4.6, help="scale; at most 1 is unguided (default: 4.6)")
    parser.add_argument("--schedule", choices=("linear", "constant"), default="linear", help="of the guidance")
    parser.add_argument("--batch", type=int, default=50, help="pictures at once (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; each has its own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
