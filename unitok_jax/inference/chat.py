"""A conversation with a model, turn by turn: words and pictures from both sides."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.inference.pipeline import Pipeline, words_of
from unitok_jax.sampling.settings import Decoding


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: without `IMAGE` symbols.
        images: the pictures that it drew.
    """

    text: str
    images: list[UInt8[np.ndarray, "H W 3"]]


class Chat:
    """Keeps what was said; each turn is answered with all of it in view.

    Args:
        pipeline: the model.
        decoding: how it answers; the settings' `chat` by default.
        seed: of the first answer; the next ones take the next numbers.
    """

    def __init__(self, pipeline: Pipeline, decoding: Decoding | None = None, seed: int = 0):
        self._pipeline, self._seed = pipeline, seed
        self._decoding = decoding or pipeline.settings.chat
        self._turns: list[Turn] = []
        self._images: list[np.ndarray] = []

    def say(self, text: str, images: Sequence[np.ndarray] = (), *, draw: bool = False) -> Reply:
        """Says something and waits for the answer.

        Args:
            text: may hold `IMAGE` symbols for its pictures; without any they stand in front of it.
            images: uint8 [H, W, 3] each.
            draw: makes the answer begin with a picture; otherwise the model chooses.

        Raises:
            UserError: if symbols and pictures do not match, or the conversation is longer than the model's context.
        """
        placed = text if IMAGE in text else IMAGE * len(images) + text
        turns, shown = (*self._turns, Turn("user", placed)), (*self._images, *images)
        task = Task.GENERATION if draw else Task.UNDERSTANDING
        example = Example(f"turn {len(turns) // 2 + 1}", turns, shown, task)
        (answer,) = self._pipeline.answer([example], self._decoding, self._seed + len(turns) // 2)
        drawn = [self._pipeline.decode(codes[None])[0] for codes in answer.images]
        behind = IMAGE * (len(drawn) - answer.text.count(IMAGE))
        self._turns = [*turns, Turn("assistant", answer.text + behind)]
        self._images = [*shown, *drawn]
        return Reply(words_of(answer.text), drawn)
