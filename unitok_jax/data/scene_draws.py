"""Random scenes and edits of them, each a function of its seed and its place alone."""

import functools
from collections.abc import Callable

import numpy as np

from unitok_jax.data import digits
from unitok_jax.data.scenes import CATEGORIES, CELLS, RELATIONS, Item, Request, Scene, coloured, placed, request, unseen

SPLITS = ("train", "held_out", "unseen")
"""Training scans; scans held out, nothing else new; scans held out, asked for in a way that training never shows."""

Draw = np.random.Generator


@functools.cache
def _scans(held_out: bool) -> dict[int, list[int]]:
    """Scans of each digit."""
    every = [i for i in range(len(digits.load()[1])) if digits.held_out(i) == held_out]
    return {digit: [i for i in every if digits.digit(i) == digit] for digit in range(10)}


def draw(split: str, seed: int, index: int) -> tuple[Scene, Request, np.random.Generator]:
    """Scene number `index`, what it was drawn to fulfil, and the generator that goes on from there.

    The categories take turns. Drawn until the scene is one that the split may show.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    category = categories(split)[index % len(categories(split))]
    while True:
        scene, wanted = _draw(category, split, rng)
        if unseen(wanted.wanted if split == "unseen" else coloured(scene)) == (split == "unseen"):
            return scene, wanted, rng


def categories(split: str) -> tuple[str, ...]:
    """The categories of a split: one digit of any colour is nothing new."""
    return CATEGORIES[1:] if split == "unseen" else CATEGORIES


def _draw(category: str, split: str, rng: Draw) -> tuple[Scene, Request]:
    pool = _scans(held_out=split != "train")
    relation = ""
    if category == "counting":
        shown = [int(rng.integers(10))] * int(rng.integers(2, len(CELLS) + 1))
    else:
        single = category in ("single_object", "colours")
        shown = rng.choice(10, 1 if single else 2, replace=False).tolist()
    cells = sorted(rng.choice(len(CELLS), len(shown), replace=False).tolist())
    if category == "position":
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        cells = _related(relation, int(rng.integers(2)))
    items = [Item(cell, _one(pool[digit], rng), _colour(rng)) for cell, digit in zip(cells, shown, strict=True)]
    # What is asked follows the order of drawing: "a two right of a seven" names the two first.
    return placed(items), request(items, category, relation)


def _related(relation: str, line: int) -> list[int]:
    """Cells of two items, one so to the other, both in row (or column) `line`."""
    first, second = (0, 1) if relation in ("left of", "above") else (1, 0)
    beside = relation in ("left of", "right of")
    return [2 * line + first, 2 * line + second] if beside else [2 * first + line, 2 * second + line]


def edit(scene: Scene, split: str, rng: Draw) -> tuple[str, Scene]:
    """An instruction in words and what it makes of a scene: another colour, another digit, one more, or one less."""
    kinds: list[Callable[[Scene, str, Draw], tuple[str, Scene]]] = [_recolour, _replace]
    kinds += [_add] if len(scene) < len(CELLS) else []
    kinds += [_remove] if len(scene) > 1 else []
    while True:
        instruction, new = kinds[int(rng.integers(len(kinds)))](scene, split, rng)
        if new != scene and (split != "train" or not unseen(coloured(new))):
            return instruction, new


def _recolour(scene: Scene, split: str, rng: Draw) -> tuple[str, Scene]:
    item = scene[int(rng.integers(len(scene)))]
    colour = _colour(rng)
    new = Item(item.cell, item.scan, colour)
    return f"make the digit at the {CELLS[item.cell]} {colour}", _instead(scene, item, new)


def _replace(scene: Scene, split: str, rng: Draw) -> tuple[str, Scene]:
    item = scene[int(rng.integers(len(scene)))]
    digit = (item.digit + int(rng.integers(1, 10))) % 10
    new = Item(item.cell, _one(_scans(split != "train")[digit], rng), item.colour)
    return f"change the digit at the {CELLS[item.cell]} to a {digits.NUMBERS[digit]}", _instead(scene, item, new)


def _add(scene: Scene, split: str, rng: Draw) -> tuple[str, Scene]:
    free = [cell for cell in range(len(CELLS)) if cell not in {item.cell for item in scene}]
    scan = _one(_scans(split != "train")[int(rng.integers(10))], rng)
    new = Item(_one(free, rng), scan, _colour(rng))
    return f"add a {new.name} at the {CELLS[new.cell]}", placed((*scene, new))


def _remove(scene: Scene, split: str, rng: Draw) -> tuple[str, Scene]:
    item = scene[int(rng.integers(len(scene)))]
    return f"remove the digit at the {CELLS[item.cell]}", tuple(other for other in scene if other != item)


def _instead(scene: Scene, old: Item, new: Item) -> Scene:
    return tuple(new if item == old else item for item in scene)


def _one(choices: list[int], rng: Draw) -> int:
    return choices[int(rng.integers(len(choices)))]


def _colour(rng: Draw) -> str:
    return digits.COLOUR_NAMES[int(rng.integers(len(digits.COLOUR_NAMES)))]
