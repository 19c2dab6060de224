"""Real handwritten digits in eight colours: words, split and rendering of the built-in data set.

The pictures are scikit-learn's copy of the UCI optical digits (1,797 scans of 8x8 grey values 0..16).
Training and evaluation both speak through this file, so that they cannot disagree on a word or a split.
"""

import functools
import importlib.metadata
import re

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 180, 40),
    "blue": (40, 70, 255),
    "yellow": (250, 235, 30),
    "cyan": (30, 225, 235),
    "magenta": (235, 40, 225),
    "orange": (255, 130, 0),
    "white": (255, 255, 255),
}
COLOUR_NAMES = tuple(COLOURS)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Never in the training split, in any task: six digits and six colours, so that each is well seen otherwise.
UNSEEN_PAIRS = frozenset({(0, "blue"), (2, "yellow"), (3, "red"), (5, "cyan"), (7, "green"), (8, "magenta")})

COLOUR_QUESTION = "what colour is it?"
DIGIT_QUESTION = "which digit?"
SIZE = 16  # twice the scans' own: what there is to see, at a quarter of the cost of 32


@functools.cache
def load() -> tuple[UInt8[np.ndarray, "n 8 8"], Int64[np.ndarray, " n"]]:
    """The 1,797 scans, 0..255, and their digits."""
    # The table behind `sklearn.datasets.load_digits`; importing that takes longer than some stages' first step.
    path = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")
    return np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), table[:, -1].astype(np.int64)


@functools.cache
def _grey(size: int) -> UInt8[np.ndarray, "n size size"]:
    """All scans, enlarged once (0.5 MB at 16 pixels)."""
    scans, _ = load()
    larger = (Image.fromarray(scan).resize((size, size), Image.Resampling.BICUBIC) for scan in scans)
    return np.stack([np.asarray(image) for image in larger])


def render(index: int, colour: str, size: int = SIZE) -> UInt8[np.ndarray, "size size 3"]:
    """Scan `index`, its strokes in `colour` on black."""
    strokes = _grey(size)[index].astype(np.uint16)[..., None]
    return ((strokes * np.array(COLOURS[colour], np.uint16) + 127) // 255).astype(np.uint8)


def moved(picture: UInt8[np.ndarray, "h w c"], down: int, right: int) -> UInt8[np.ndarray, "h w c"]:
    """A picture moved by some pixels; what comes in from outside is black."""
    away = max(abs(down), abs(right))
    padded = np.pad(picture, ((away, away), (away, away), (0, 0)))
    return padded[away - down :, away - right :][: picture.shape[0], : picture.shape[1]]


def digit(index: int) -> int:
    """What scan `index` shows, 0..9."""
    return int(load()[1][index])


def held_out(index: int) -> bool:
    """Whether scan `index` is kept from training: every sixth is."""
    return index % 6 == 0


def held_out_colour(index: int) -> str:
    """The one colour in which held-out scan `index` is shown."""
    return COLOUR_NAMES[(index // 6) % len(COLOUR_NAMES)]


@functools.cache
def split(name: str) -> tuple[tuple[int, str], ...]:
    """(scan index, colour) of every picture of split ``train`` or ``held_out``."""
    indices = range(len(load()[1]))
    if name == "held_out":
        return tuple((i, held_out_colour(i)) for i in indices if held_out(i))
    pairs = ((i, colour) for i in indices if not held_out(i) for colour in COLOUR_NAMES)
    return tuple((i, colour) for i, colour in pairs if (digit(i), colour) not in UNSEEN_PAIRS)


def caption(digit: int, colour: str) -> str:
    """The one sentence about a picture, such as ``a handwritten red seven``."""
    return f"a handwritten {colour} {NUMBERS[digit]}"


def parse_caption(text: str) -> tuple[int | None, str | None]:
    """The digit and the colour that `text` names; None for what it names not at all or in two ways."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    numbers = [value for value, word in enumerate(NUMBERS) if word in words]
    colours = [name for name in COLOUR_NAMES if name in words]
    return (numbers[0] if len(numbers) == 1 else None, colours[0] if len(colours) == 1 else None)


def record(index: int, colour: str, size: int = SIZE) -> dict:
    """One picture with all that is said about it (see `unitok_jax.data.tasks` for the field names)."""
    value = digit(index)
    return {
        "id": f"digits:{index}:{colour}",
        "index": index,
        "digit": value,
        "colour": colour,
        "label": value,
        "image": render(index, colour, size),
        "caption": caption(value, colour),
        "questions": [COLOUR_QUESTION, DIGIT_QUESTION],
        "answers": [colour, NUMBERS[value]],
    }
