"""One training or inference example, before any system lays it out."""

import dataclasses
import enum

import numpy as np

IMAGE = "<|image|>"  # stands for one image inside a turn's text


class Task(enum.IntEnum):
    """What an example teaches; the values stand in a batch's `task` field."""

    NONE = 0
    TEXT = 1
    UNDERSTANDING = 2
    GENERATION = 3


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message: `role` is ``user`` or ``assistant``; `text` may hold `IMAGE` symbols."""

    role: str
    text: str


@dataclasses.dataclass(frozen=True)
class Example:
    """A conversation with images.

    Attributes:
        id: names the example in logs, such as ``train.jsonl:17``.
        turns: user and assistant messages in order; the assistant's are what is learnt.
        images: decoded RGB pictures, uint8 [H, W, 3], in the order of the `IMAGE` symbols.
        task: what the example teaches.
        codes: precomputed codes in the place of images, one array an image, or None.
        label: the class of a class-conditional example, or None.
        grids: (rows, columns) of each picture's codes, where they were recorded, or None.
        drawn: (epoch, number in its source) at which a training stream drew it.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[np.ndarray, ...] = ()
    task: Task = Task.NONE
    codes: tuple[np.ndarray, ...] | None = None
    label: int | None = None
    grids: tuple[tuple[int, int], ...] | None = None
    drawn: tuple[int, int] = (0, 0)


REASONS = (
    "bad JSON line",
    "record cannot be read",
    "missing text",
    "image missing",
    "image cannot be decoded",
    "image too large",
    "image symbols do not match the images",
    "no assistant turn",
    "no precomputed codes",
    "longer than the row",
    "other",
)
"""Why examples are skipped, in the order of the counters in a data iterator's state."""


class BadExample(Exception):
    """An example that cannot be used: skipped, counted by `reason`, named in the log, never fatal alone.

    Attributes:
        reason: one of `REASONS`; anything else is counted as ``other``.
        detail: what the log adds, such as the file.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
