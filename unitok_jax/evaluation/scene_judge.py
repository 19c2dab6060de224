"""An exact judge of digit scenes: what lies in each cell, by the judge of single digits; whether it was asked for.

It knows the grid and searches for nothing; a drawing that does not keep to the grid is judged by what its cells show.
"""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
from jaxtyping import UInt8

from unitok_jax.data.scenes import GRID, Request, Scene
from unitok_jax.evaluation.judge import judge

Seen = Mapping[int, tuple[int, str]]  # cell -> (digit, colour) of each cell that is not dark

RIGHT = "right"


def see(pictures: UInt8[np.ndarray, "B H W 3"]) -> list[Seen]:
    """What each picture shows; sides are a multiple of `data.scenes.SIZE`."""
    count, side = len(pictures), pictures.shape[1] // GRID
    cells = pictures.reshape(count, GRID, side, GRID, side, 3).swapaxes(2, 3).reshape(-1, side, side, 3)
    verdicts = judge()(cells)
    each = [verdicts[i : i + GRID**2] for i in range(0, len(verdicts), GRID**2)]
    return [
        {i: (v.digit, v.colour) for i, v in enumerate(cells) if v.digit is not None and v.colour is not None}
        for cells in each
    ]


def shows(seen: Seen, scene: Scene) -> bool:
    """Whether exactly the scene's digits are seen, each in its cell and colour."""
    return dict(seen) == {item.cell: (item.digit, item.colour) for item in scene}


def verdict(seen: Seen, request: Request) -> str:
    """``right``, or the first thing that is not: ``number`` of digits, ``digit``, ``colour``, ``position``.

    A request is met if what is seen can be paired with what is wanted, one to one.
    """
    if len(seen) != len(request.wanted):
        return "number"
    pairings = [list(zip(found, request.wanted, strict=True)) for found in permutations(seen.items())]
    for wrong, fits in (("digit", _digit), ("colour", _colour)):
        pairings = [pairing for pairing in pairings if all(fits(found, wanted) for found, wanted in pairing)]
        if not pairings:
            return wrong
    placed = any(_lies([cell for (cell, _), _ in pairing], request.relation) for pairing in pairings)
    return RIGHT if placed else "position"


def _digit(found: tuple[int, tuple[int, str]], wanted: tuple[int, str | None]) -> bool:
    return found[1][0] == wanted[0]


def _colour(found: tuple[int, tuple[int, str]], wanted: tuple[int, str | None]) -> bool:
    return wanted[1] in (None, found[1][1])


def _lies(cells: list[int], relation: str) -> bool:
    """Whether the first cell lies so to the second."""
    if not relation:
        return True
    (row, column), (other_row, other_column) = (divmod(cell, GRID) for cell in cells)
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[relation]
