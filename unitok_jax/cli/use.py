"""`unitok caption | ask | generate | reconstruct`: a trained model at work."""

import argparse
import re
from collections.abc import Sequence

from etils import epath

from unitok_jax.cli.detokenizer import redirected
from unitok_jax.conversion.loading import load_run, using
from unitok_jax.data import pictures
from unitok_jax.data.example import BadExample
from unitok_jax.data.pictures import Images, Picture
from unitok_jax.errors import UserError, writing
from unitok_jax.evaluation.sheets import save_picture


def caption(args: argparse.Namespace) -> None:
    """Prints each picture's path and caption, with a tab between."""
    images = read_pictures(args.images)
    pipeline, config = load_run(args.workdir, args.mesh)
    with using(pipeline, config):
        _show(args.images, pipeline.caption(images))


def ask(args: argparse.Namespace) -> None:
    """Prints each picture's path and answer, with a tab between."""
    images = read_pictures(args.images)
    pipeline, config = load_run(args.workdir, args.mesh)
    with using(pipeline, config):
        _show(args.images, pipeline.ask(images, [args.question] * len(images)))


def generate(args: argparse.Namespace) -> None:
    """Draws `count` pictures of each prompt into a folder and prints their paths."""
    if args.count < 1:
        raise UserError(f"--count: expected 1 or more, got {args.count}")
    prompts = [prompt for prompt in args.prompts for _ in range(args.count)]
    how = {
        "seeds": args.seed,
        "guidance": args.guidance,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "grid": _grid(args.grid),
        "noise_steps": args.noise_steps,
    }
    if args.image and args.best_of != 1:
        raise UserError("--best-of: chooses among drawings from words, not among edits; drop it or --image")
    images = read_pictures([args.image]) * len(prompts) if args.image else None
    pipeline, config = load_run(args.workdir, args.mesh)
    pipeline = redirected(pipeline, config, args)
    with using(pipeline, config):
        drawn = (
            pipeline.edit(images, prompts, **how) if images else pipeline.generate(prompts, **how, best_of=args.best_of)
        )
    names = [f"{args.seed + i:04d}-{_slug(prompt)}" for i, prompt in enumerate(prompts)]
    save_pictures(args.out, names, drawn)


def reconstruct(args: argparse.Namespace) -> None:
    """Writes each picture as its codes give it back into a folder and prints the paths."""
    images = read_pictures(args.images)
    names = [epath.Path(path).stem for path in args.images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two pictures are named {twice}; their results would have one file name: give one at a time")
    pipeline, config = load_run(args.workdir, args.mesh)
    with using(pipeline, config):
        save_pictures(args.out, names, pipeline.reconstruct(images))


def read_pictures(paths: Sequence[str]) -> list[Picture]:
    """Pictures of files.

    Raises:
        UserError: naming the first that is missing or cannot be decoded.
    """
    try:
        return [pictures.decode(path) for path in paths]
    except BadExample as error:
        raise UserError(f"{error}; give picture files such as PNG or JPEG") from error


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UserError(f"--grid: expected ROWSxCOLUMNS, such as 32x32, got {text!r}")
    return int(match[1]), int(match[2])


def _show(names: Sequence[str], texts: Sequence[str]) -> None:
    for name, text in zip(names, texts, strict=True):
        print(f"{name}\t{text}")


def save_pictures(folder: str, names: Sequence[str], drawn: Images) -> None:
    """Writes pictures into a folder as PNG and prints their paths."""
    for name, picture in zip(names, drawn, strict=True):
        path = epath.Path(folder) / f"{name}.png"
        with writing(path):
            save_picture(picture, path)
        print(path)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
