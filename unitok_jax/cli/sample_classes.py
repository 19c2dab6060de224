"""Draws pictures of every class with a class-conditional model, as FID is computed from.

    python -m unitok_jax.cli.sample_classes --workdir runs/uniwetok/c2i-B --out samples --guidance 3.2

Writes ``OUT/<class>/<number>.png`` and ``OUT/samples.npz``, whose ``arr_0`` is uint8 [N, H, W, 3] with the classes in
order, for the evaluator of OpenAI's guided-diffusion. A job that was killed goes on with the classes it lacks.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath
from PIL import Image

from unitok_jax.cli.models import load_pipeline
from unitok_jax.errors import UserError, writing
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.sampling.draw import sample_keys


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
    pipeline, config = load_pipeline(args.workdir, args.mesh)
    system = pipeline.system
    if not hasattr(system, "draw_classes"):
        raise UserError(f"{args.workdir}: a run of {config.system}, which has no class-conditional model")
    if args.per_class < 1 or args.batch < 1:
        raise UserError("--per-class and --batch: expected 1 or more")
    settings = {"steps": args.steps, "guidance": args.guidance, "schedule": args.schedule}
    draw = jax.jit(functools.partial(system.draw_classes, **settings))
    out, classes = epath.Path(args.out), args.classes or config.model["generator"]["classes"]
    with writing(out):
        for label in range(classes):
            _one_class(pipeline, draw, out, label, args)
        _join(out, classes, args.per_class)


def _one_class(pipeline: Pipeline, draw: Callable, out: epath.Path, label: int, args: argparse.Namespace) -> None:
    folder = out / f"{label:04d}"
    if folder.exists():
        return
    seeds = args.seed + label * args.per_class + np.arange(args.per_class)
    seeds = np.pad(seeds, (0, -args.per_class % args.batch), mode="edge").reshape(-1, args.batch)
    labels = pipeline.place(np.full(args.batch, label, np.int32))
    with pipeline.on_mesh():
        drawn = [_bytes(draw(pipeline.params, labels, sample_keys(part))) for part in seeds]
    drawn = np.concatenate(drawn)[: args.per_class]
    draft = out / f"{label:04d}.tmp"
    draft.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(drawn):
        with (draft / f"{number:04d}.png").open("wb") as file:
            Image.fromarray(picture).save(file, "PNG")
    draft.rename(folder)


def _bytes(pictures: jax.Array) -> np.ndarray:
    """``127.5 x + 128``, clamped and truncated, as the released sampler does it."""
    return np.clip(127.5 * np.asarray(pictures, np.float32) + 128, 0, 255).astype(np.uint8)


def _join(out: epath.Path, classes: int, per_class: int) -> None:
    names = [out / f"{label:04d}" / f"{number:04d}.png" for label in range(classes) for number in range(per_class)]
    pictures = []
    for name in names:
        with name.open("rb") as file:
            pictures.append(np.asarray(Image.open(file).convert("RGB")))
    draft = out / "samples.npz.tmp"
    with draft.open("wb") as file:
        np.savez(file, arr_0=np.stack(pictures))
    draft.rename(out / "samples.npz")
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
