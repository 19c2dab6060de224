"""A conversation with a model, turn by turn: words and pictures from both sides."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.pictures import Images
from unitok_jax.errors import UserError
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
        guidance: in the place of the settings' own.

    Where a picture is asked for, and the settings' `draw` names a grid (as it must where words and pictures are decodes
    of their own), the answer is decoded by that.
    """

    def __init__(
        self, pipeline: Pipeline, decoding: Decoding | None = None, seed: int = 0, guidance: float | None = None
    ):
        self._pipeline, self._seed = pipeline, seed
        settings = pipeline.settings
        chosen = {} if guidance is None else {"guidance": guidance}
        self._decoding = dataclasses.replace(decoding or settings.chat, **chosen)
        by_grid = settings.draw.grid is not None
        self._drawing = dataclasses.replace(settings.draw, **chosen) if by_grid else self._decoding
        self._turns: list[Turn] = []
        self._images: list[np.ndarray] = []

    @property
    def turns(self) -> int:
        """How many messages were answered."""
        return len(self._turns) // 2

    def say(self, text: str, images: Images = (), *, draw: bool = False) -> Reply:
        """Says something and waits for the answer.

        Args:
            text: may hold `IMAGE` symbols for its pictures; without any they stand in front of it.
            images: uint8 [H, W, 3] each.
            draw: makes the answer begin with a picture; otherwise the model chooses.

        Raises:
            UserError: if symbols and pictures do not match, the conversation is longer than the model's context, or
                a picture was asked for and none is whole.
        """
        placed = text if IMAGE in text else IMAGE * len(images) + text
        turns, shown = (*self._turns, Turn("user", placed)), (*self._images, *images)
        task = Task.GENERATION if draw else Task.UNDERSTANDING
        example = Example(f"turn {self.turns + 1}", turns, shown, task)
        decoding = self._drawing if draw else self._decoding
        (answer,) = self._pipeline.answer([example], decoding, self._seed + self.turns)
        if draw and not answer.images:
            raise UserError(
                f"no whole picture in the answer within max_steps={decoding.max_steps}; raise it, or name "
                "config.inference.draw.grid where the model draws by grid"
            )
        drawn = [self._pipeline.decode(codes[None])[0] for codes in answer.images]
        behind = IMAGE * (len(drawn) - answer.text.count(IMAGE))
        self._turns = [*turns, Turn("assistant", answer.text + behind)]
        self._images = [*shown, *drawn]
        return Reply(words_of(answer.text), drawn)
