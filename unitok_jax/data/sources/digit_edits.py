"""Edits of handwritten digits: another colour for the same scan, or another digit in the same colour."""

import dataclasses
from typing import Any

import numpy as np

from unitok_jax.data import digits
from unitok_jax.errors import UserError

COLOUR, DIGIT = "make it {colour}", "change the {old} to a {new}"


@dataclasses.dataclass
class Source:
    """Two records a picture: a change of its colour, then one of its digit.

    What a picture is changed to follows from its place. A digit is changed to another scan of the same split; nothing
    of the training split shows a pair of digit and colour that is never trained on.

    Attributes:
        split: ``train`` or ``held_out``.
        size: height and width of the pictures in pixels.
    """

    split: str = "train"
    size: int = digits.SIZE

    def __post_init__(self):
        if self.split not in ("train", "held_out"):
            raise UserError(f"digit_edits: no split {self.split!r}. Known: held_out, train.")

    def __len__(self) -> int:
        return 2 * len(digits.split(self.split))

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, changes_digit = divmod(index, 2)
        scan, colour = digits.split(self.split)[place]
        rng = np.random.default_rng((index, self.size))
        if changes_digit:
            target = self._other_scan(scan, colour, rng), colour
            new = digits.NUMBERS[digits.digit(target[0])]
            instruction = DIGIT.format(old=digits.NUMBERS[digits.digit(scan)], new=new)
        else:
            target = scan, self._other_colour(scan, colour, rng)
            instruction = COLOUR.format(colour=target[1])
        return {
            "id": f"digit_edits:{scan}:{colour}:{'digit' if changes_digit else 'colour'}",
            "image": digits.render(scan, colour, self.size),
            "target": digits.render(*target, self.size),
            "instruction": instruction,
            "digit": digits.digit(target[0]),
            "colour": target[1],
        }

    def _other_colour(self, scan: int, colour: str, rng: np.random.Generator) -> str:
        known = [c for c in digits.COLOUR_NAMES if c != colour and self._may_show(digits.digit(scan), c)]
        return known[int(rng.integers(len(known)))]

    def _other_scan(self, scan: int, colour: str, rng: np.random.Generator) -> int:
        while True:  # most draws are another digit
            other, _ = digits.split(self.split)[int(rng.integers(len(digits.split(self.split))))]
            digit = digits.digit(other)
            if digit != digits.digit(scan) and self._may_show(digit, colour):
                return other

    def _may_show(self, digit: int, colour: str) -> bool:
        return (digit, colour) not in digits.UNSEEN_PAIRS
