"""Scenes of one to four handwritten digits: needs no file and no network."""

import dataclasses
from typing import Any

from unitok_jax.data import scenes
from unitok_jax.data.scene_draws import SPLITS, draw, edit
from unitok_jax.errors import UserError


@dataclasses.dataclass
class Source:
    """Scenes with all that is said about them, for every task of `unitok_jax.data.tasks` that reads pictures.

    ``caption`` says everything; ``request`` is what one would ask for to get such a picture, which may leave colours
    and places open (for the task ``generate``: ``fields={"caption": "request"}``); ``target`` is what ``instruction``
    makes of it.

    Attributes:
        split: ``train``; ``held_out``, the same kinds of scenes of scans that training never sees; ``unseen``, such
            scans in combinations that training never shows.
        count: how many scenes.
        seed: of all of them.
        size: height and width of the pictures in pixels.
    """

    split: str = "train"
    count: int = 12_000
    seed: int = 0
    size: int = scenes.SIZE

    def __post_init__(self):
        if self.split not in SPLITS:
            raise UserError(f"digit_scenes: no split {self.split!r}. Known: {', '.join(sorted(SPLITS))}.")
        if self.size < 1 or self.size % scenes.SIZE:
            raise UserError(f"digit_scenes: size {self.size}: expected a multiple of {scenes.SIZE}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        scene, wanted, rng = draw(self.split, self.seed, index)
        instruction, target = edit(scene, self.split, rng)
        asked, answers = scenes.questions(scene)
        return {
            "id": f"digit_scenes:{self.split}:{self.seed}:{index}",
            "image": scenes.render(scene, self.size),
            "caption": scenes.caption(scene),
            "request": wanted.text,
            "category": wanted.category,
            "questions": asked,
            "answers": answers,
            "instruction": instruction,
            "target": scenes.render(target, self.size),
        }
