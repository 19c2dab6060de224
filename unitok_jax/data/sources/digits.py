"""scikit-learn's handwritten digits in eight colours: needs no file and no network."""

import dataclasses
from typing import Any

from unitok_jax.data import digits
from unitok_jax.errors import UserError


@dataclasses.dataclass
class Source:
    """Coloured digits.

    Attributes:
        split: ``train`` (every scan that is not held out, in each colour, without the unseen pairs) or
            ``held_out`` (every sixth scan, in one colour).
        size: height and width of the pictures in pixels.
        shift: each picture comes moved by -shift to shift pixels down and right, once each way.
    """

    split: str = "train"
    size: int = digits.SIZE
    shift: int = 0

    def __post_init__(self):
        if self.split not in ("train", "held_out"):
            raise UserError(f"digits: no split {self.split!r}. Known: held_out, train.")

    def __len__(self) -> int:
        return len(digits.split(self.split)) * (2 * self.shift + 1) ** 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        index, place = divmod(index, (2 * self.shift + 1) ** 2)
        down, right = divmod(place, 2 * self.shift + 1)
        record = digits.record(*digits.split(self.split)[index], self.size)
        return {**record, "image": digits.moved(record["image"], down - self.shift, right - self.shift)}
