"""What the page can do, each with its input checked; nothing here knows how the page looks."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unitok_jax.conversion.loading import using
from unitok_jax.data import pictures
from unitok_jax.data.example import IMAGE, BadExample
from unitok_jax.errors import UserError
from unitok_jax.inference.chat import Chat, Reply
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.training.config import TrainConfig

Picture = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        letters: of a message.
        megabytes: of an uploaded file.
        side: of an uploaded picture in pixels.
        codes: of a picture that is drawn.
        turns: of a conversation.
        guidance: the largest scale.
    """

    letters: int = 2000
    megabytes: int = 10
    side: int = 4096
    codes: int = 4096
    turns: int = 32
    guidance: float = 20.0


class Actions:
    """A model behind a page.

    Args:
        pipeline, config: of a run.
        uploads: the folder that uploaded files lie in; no other file is read.
        limits: what may be asked for.

    Every method raises `UserError`, told in one line, for input that it does not take.
    """

    def __init__(self, pipeline: Pipeline, config: TrainConfig, uploads: Path, limits: Limits | None = None):
        self.pipeline, self.config, self.limits = pipeline, config, limits or Limits()
        self._uploads = uploads.resolve()

    @property
    def learnt_edits(self) -> bool:
        """Whether the recipe trains on edits; an import has no data to tell it by."""
        return any(source.get("task") == "edit" for source in self.config.data.get("train", ()))

    def draw(
        self, prompt: str, guidance: float, seed: float, size: str, upload: str | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """A picture as it forms: of a prompt, or of an uploaded picture that the prompt says how to change.

        `size` reads ROWSxCOLUMNS, in codes; empty is the model's own.
        """
        text, image = self._text(prompt, "prompt"), None if upload is None else self.read(upload)
        how: dict[str, Any] = {"guidance": self._guidance(guidance), "seed": _seed(seed), "grid": self._grid(size)}
        with using(self.pipeline, self.config):
            yield from self.pipeline.drawing(text, image=image, **how)

    def compare(self, upload: str | None) -> tuple[Picture, Picture, str]:
        """An uploaded picture as the model sees it, its reconstruction, and its codes, a line a row of the grid."""
        image = self.read(upload)
        with using(self.pipeline, self.config):
            tokens = self.pipeline.encode([image], codes_alone=True)
            coded = np.asarray(tokens.coded)
            codes = coded.reshape(*(tokens.grid or coded.shape[2:3]), *coded.shape[3:])
            return image, self.pipeline.decode(codes[None])[0], _lines(codes)

    def say(self, talk: Chat, message: str, upload: str | None, draw: bool) -> Reply:
        """The answer to a message of a conversation."""
        if talk.turns >= self.limits.turns:
            raise UserError(f"the conversation has {talk.turns} turns, the most there may be; begin a new one")
        images = [] if upload is None else [self.read(upload)]
        with using(self.pipeline, self.config):
            return talk.say(self._text(message, "message"), images, draw=draw)

    def read(self, upload: str | None) -> Picture:
        """An uploaded picture."""
        if upload is None:
            raise UserError("no picture; upload one first")
        path = Path(upload).resolve()
        if not path.is_relative_to(self._uploads) or not path.is_file():
            raise UserError("not an uploaded picture; upload it first")
        if path.stat().st_size > self.limits.megabytes * 10**6:
            raise UserError(f"the file is larger than {self.limits.megabytes} MB; make it smaller first")
        try:
            image = pictures.decode(str(path))
        except BadExample as error:
            raise UserError(f"{error.reason}; upload a PNG or JPEG") from None
        if max(image.shape[:2]) > self.limits.side:
            raise UserError(f"the picture is larger than {self.limits.side} pixels a side; make it smaller first")
        return image

    def _text(self, text: str, what: str) -> str:
        text = text.strip() if isinstance(text, str) else ""
        if not text:
            raise UserError(f"the {what} is empty; write something first")
        if len(text) > self.limits.letters:
            raise UserError(f"the {what} has {len(text)} letters; {self.limits.letters} at most")
        return text.replace(IMAGE, "")

    def _guidance(self, value: float) -> float:
        if not isinstance(value, int | float) or not 1 <= value <= self.limits.guidance:
            raise UserError(f"guidance: expected a number from 1 to {self.limits.guidance:g}, got {value!r}")
        return float(value)

    def _grid(self, size: str) -> tuple[int, int] | None:
        if not size:
            return None
        match = re.fullmatch(r"\s*(\d{1,4})\s*x\s*(\d{1,4})\s*", size)
        rows, columns = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 0 < rows * columns <= self.limits.codes:
            raise UserError(f"size: expected ROWSxCOLUMNS, {self.limits.codes} codes at most, got {size[:20]!r}")
        return rows, columns


def _seed(value: float) -> int:
    if not isinstance(value, int | float) or not 0 <= value < 2**31 or int(value) != value:
        raise UserError(f"seed: expected a whole number from 0 to {2**31 - 1}, got {value!r}")
    return int(value)


def _lines(codes: np.ndarray) -> str:
    rows = codes if codes.ndim > 1 else codes[None]
    return "\n".join(" ".join("/".join(map(str, np.atleast_1d(code))) for code in row) for row in rows)
