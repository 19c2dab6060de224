"""Scenes of one to four real handwritten digits on a 2 x 2 grid: words, rendering and what is asked of a picture.

Ours, and small enough to be judged exactly; the categories of requests are those of GenEval (Ghosh et al. 2023,
arXiv 2310.11513), whose pictures, prompts and detector it has nothing of.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from unitok_jax.data import digits

CELLS = ("top left", "top right", "bottom left", "bottom right")
GRID = 2  # rows and columns
SIZE = GRID * digits.SIZE
CATEGORIES = ("single_object", "two_objects", "counting", "colours", "position", "attribute_binding")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = ("no", "one", "two", "three", "four")
PLURALS = tuple("sixes" if word == "six" else f"{word}s" for word in digits.NUMBERS)

# Never in one scene of the training split: each digit is in one of them.
UNSEEN_TOGETHER = frozenset({(0, 4), (1, 7), (2, 5), (3, 8), (6, 9)})
# Never so many of a digit in the training split.
UNSEEN_COUNTS = frozenset({(1, 3), (4, 2), (6, 4), (7, 2), (9, 3)})


@dataclasses.dataclass(frozen=True, order=True)
class Item:
    """A digit of a scene: where (an index of `CELLS`), which scan, and in which colour."""

    cell: int
    scan: int
    colour: str

    @property
    def digit(self) -> int:
        """What it shows."""
        return digits.digit(self.scan)

    @property
    def name(self) -> str:
        """Such as ``red seven``."""
        return f"{self.colour} {digits.NUMBERS[self.digit]}"


Scene = tuple[Item, ...]  # in the order of the cells


@dataclasses.dataclass(frozen=True)
class Request:
    """What a picture must show, and nothing besides.

    Attributes:
        category: one of `CATEGORIES`.
        wanted: (digit, colour) each; a colour of None may be any.
        relation: one of `RELATIONS`, how the first lies to the second; empty if that does not matter.
    """

    category: str
    wanted: tuple[tuple[int, str | None], ...]
    relation: str = ""

    @property
    def text(self) -> str:
        """The prompt."""
        if self.category == "counting":
            return f"{COUNTS[len(self.wanted)]} handwritten {PLURALS[self.wanted[0][0]]}"
        named = [
            f"a handwritten {colour} {digits.NUMBERS[digit]}" if colour else f"a handwritten {digits.NUMBERS[digit]}"
            for digit, colour in self.wanted
        ]
        return f" {self.relation or 'and'} ".join(named)


def render(scene: Scene, size: int = SIZE) -> UInt8[np.ndarray, "size size 3"]:
    """The picture of a scene, each digit filling its cell, on black."""
    side = size // GRID
    picture = np.zeros((size, size, 3), np.uint8)
    for item in scene:
        row, column = divmod(item.cell, GRID)
        picture[row * side :, column * side :][:side, :side] = digits.render(item.scan, item.colour, side)
    return picture


def caption(scene: Scene) -> str:
    """All that there is to say, such as ``a red two at the top left and a blue seven at the top right``."""
    said = [f"a {item.name} at the {CELLS[item.cell]}" for item in scene]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def parse_caption(text: str) -> dict[int, tuple[int, str]]:
    """Cell -> (digit, colour) of everything that a text says in the words of `caption`; a cell's last word counts."""
    either = "|".join
    said = rf"({either(digits.COLOUR_NAMES)}) ({either(digits.NUMBERS)}) at the ({either(CELLS)})"
    found = re.findall(said, " ".join(text.lower().split()))
    return {CELLS.index(cell): (digits.NUMBERS.index(number), colour) for colour, number, cell in found}


def request(items: Sequence[Item], category: str, relation: str = "") -> Request:
    """The request of a category that some items fulfil, naming them in their order."""
    named = category in ("colours", "attribute_binding")
    wanted = tuple((item.digit, item.colour if named else None) for item in items)
    return Request(category, wanted, relation)


def questions(scene: Scene) -> tuple[list[str], list[str]]:
    """What may be asked about a scene, and the answers."""
    pairs = [("how many digits?", COUNTS[len(scene)])]
    for item in scene:
        where, number = CELLS[item.cell], digits.NUMBERS[item.digit]
        pairs += [
            (f"which digit is at the {where}?", number),
            (f"what colour is the digit at the {where}?", item.colour),
        ]
        if sum(other.digit == item.digit for other in scene) == 1:
            pairs += [(f"where is the {number}?", where), (f"what colour is the {number}?", item.colour)]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


def unseen(wanted: Sequence[tuple[int, str | None]]) -> bool:
    """Whether training may not show digits with colours: a colour on one, two together, or so many of one."""
    shown = [digit for digit, _ in wanted]
    pairs = {(a, b) for a in shown for b in shown}
    return (
        any(pair in digits.UNSEEN_PAIRS for pair in wanted)
        or bool(pairs & UNSEEN_TOGETHER)
        or any((digit, shown.count(digit)) in UNSEEN_COUNTS for digit in shown)
    )


def coloured(scene: Scene) -> list[tuple[int, str | None]]:
    """(digit, colour) of a scene's items."""
    return [(item.digit, item.colour) for item in scene]


def placed(items: Sequence[Item]) -> Scene:
    """Items as a scene."""
    return tuple(sorted(items))
