"""Rows: what a stage's `layout` returns and what a batch is made of.

An example row is one example laid out; a packed row is one line of the batch and may hold several.
"""

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np

from unitok_jax.data.example import Task
from unitok_jax.errors import UserError

LEARNT = ("loss_positions", "visual_positions")  # fields of `RowSpec`
DRAW = -1  # the target of a position whose output is drawn by another head than the vocabulary's softmax


class Modality(enum.IntEnum):
    """What stands at a position; the values of a batch's `modality` field."""

    TEXT = 0
    FEATURE = 1  # a continuous vector of `encode_image`, picked by `slots`
    CODE = 2  # a visual code, picked by `slots`


@dataclasses.dataclass(frozen=True)
class View:
    """One kind of picture that a row carries, such as ``vqgan`` or ``siglip``.

    Attributes:
        images: how many pictures of this view a packed row has room for.
        height, width: their size in pixels.
        outputs: how many visual outputs (codes or features) one picture gives.
        modality: what its outputs are: positions of this modality point into this view.
        depth: codes of one output, where they are several (residual codes); 0: one code, without an axis of its own.
    """

    images: int
    height: int
    width: int
    outputs: int = 0
    modality: Modality = Modality.FEATURE
    depth: int = 0

    @property
    def codes(self) -> tuple[int, ...]:
        """Shape of one picture's codes: [outputs], or [outputs, depth]."""
        return (self.outputs, self.depth) if self.depth else (self.outputs,)


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """The static shape of a packed row.

    Attributes:
        length: positions in a row; 0 where the stage has pictures only.
        views: the pictures that a row carries, by name.
        code_view: the view whose pictures may come as precomputed codes instead, or None.
        pack: several examples a row; otherwise one.
        blocks: the batch has `blocks` (some row of the stage attends both ways somewhere).
        lengths: shorter lengths that whole batches may have instead, where the data's order is ``clustered``.
        added: the most positions that a row has beyond its recorded length.
        loss_positions: how many positions with a target of the vocabulary are learnt in a row at most, which is how
            many its softmax scores; 0: the whole row.
        visual_positions: how many positions with the target `DRAW` are learnt in a row at most; 0: as many as its
            pictures have outputs.

    Raises:
        UserError: for a negative number of positions.
    """

    length: int
    views: Mapping[str, View] = dataclasses.field(default_factory=dict)
    code_view: str | None = None
    pack: bool = False
    blocks: bool = False
    lengths: tuple[int, ...] = ()
    added: int = 0
    loss_positions: int = 0
    visual_positions: int = 0

    def __post_init__(self):
        for name in LEARNT:
            if getattr(self, name) < 0:
                raise UserError(f"config.stage_options.{name}: {getattr(self, name)}; 0 stands for the whole row")


@dataclasses.dataclass
class ExampleRow:
    """One example laid out. All sequence fields have one length, at most `RowSpec.length`.

    Attributes:
        tokens: int32 [S], input ids (any id at feature positions and at code positions whose codes come later).
        targets: int32 [S], the id that position t must predict: already shifted; `DRAW` where a visual head does.
        loss_weights: float32 [S], 0 where nothing is learnt.
        modality: int8 [S], `Modality` values.
        slots: int32 [S], for feature and code positions the index of the visual output, counted from this
            example's first picture of that modality's view; 0 elsewhere.
        task: what the example teaches.
        views: pictures by view, uint8 [H, W, 3]; the batch turns them into float in [-1, 1].
        codes: int32 [images, outputs] (or [..., depth]) where they come precomputed: in the place of
            `views[code_view]`.
        sizes: int32 [images, 2], original (height, width) of each picture of the example.
        blocks: int32 [S] or None; equal ids >= 0 attend both ways, -1 is causal.
        label: the class of a class-conditional example, or None.
    """

    tokens: np.ndarray
    targets: np.ndarray
    loss_weights: np.ndarray
    modality: np.ndarray
    slots: np.ndarray
    task: Task
    views: Mapping[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    codes: np.ndarray | None = None
    sizes: np.ndarray | None = None
    blocks: np.ndarray | None = None
    label: int | None = None
