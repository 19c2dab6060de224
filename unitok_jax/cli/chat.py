"""`unitok chat`: a conversation over standard input and output."""

import argparse
import shlex
import sys
from collections.abc import Iterator

import numpy as np

from unitok_jax.cli.use import read_pictures, save_pictures
from unitok_jax.conversion.loading import load_run, using
from unitok_jax.errors import UserError
from unitok_jax.inference.chat import Chat

HOW = """\
One message a line. /image FILE... shows pictures with the next message, /draw MESSAGE asks for a picture. An empty
line, or the end of the input, ends the conversation."""


def chat(args: argparse.Namespace) -> None:
    """Answers each line that is read; pictures that are drawn go into the folder `out`, their paths are printed."""
    waiting = read_pictures(args.images)
    pipeline, config = load_run(args.workdir, args.mesh)
    talk, asks = Chat(pipeline, seed=args.seed, guidance=args.guidance), sys.stdin.isatty()
    if asks:
        print(HOW, file=sys.stderr)
    replies = 0
    with using(pipeline, config):
        for line in _lines(asks):
            try:
                command, _, rest = line.partition(" ")
                if command == "/image":
                    waiting += read_pictures(_words(rest))
                    continue
                if command.startswith("/") and command != "/draw":
                    raise UserError(f"{command}: no such command of a chat; there are /image FILE... and /draw MESSAGE")
                draw = command == "/draw"
                reply = talk.say(rest if draw else line, waiting, draw=draw)
            except UserError as error:
                if not asks:
                    raise
                print(f"error: {error}", file=sys.stderr)  # a typo must not cost the conversation
                continue
            waiting, replies = [], replies + 1
            _tell(reply.text, reply.images, args.out, replies)


def _words(text: str) -> list[str]:
    """File names as a shell reads them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"/image {text}: {error}; put the name in quotes") from None


def _lines(asks: bool) -> Iterator[str]:
    """Messages until the first empty line."""
    while True:
        if asks:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _tell(text: str, images: list[np.ndarray], folder: str, number: int) -> None:
    if text:
        print(text)
    save_pictures(folder, [f"{number:04d}-{i}" for i in range(len(images))], images)
    sys.stdout.flush()
