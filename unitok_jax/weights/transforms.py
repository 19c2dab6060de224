"""Invertible changes of layout between an upstream tensor and ours, on numpy arrays or anything that acts like one.

A transform knows the upstream shape that belongs to a shape of ours, so that a table of rules can be checked on
shapes alone. `to_ours` takes the shape to arrive at; `to_upstream` inverts it. Both give views where numpy can.
"""

import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from unitok_jax.errors import UserError

Shape = tuple[int, ...]
STRIP = 1 << 18  # bytes that lie together: a core's cache holds them


@runtime_checkable
class Transform(Protocol):
    """What a rule does to a tensor on its way in, and undoes on its way out."""

    def upstream_shape(self, shape: Shape) -> Shape:
        """The shape upstream of what has `shape` here."""

    def to_ours(self, x: Any, shape: Shape) -> Any:
        """An upstream tensor of shape ``upstream_shape(shape)``, as ours."""

    def to_upstream(self, x: Any) -> Any:
        """Ours, as the upstream tensor."""


@dataclasses.dataclass(frozen=True)
class Transpose:
    """Permuted axes: axis i of ours is axis ``axes[i]`` upstream."""

    axes: tuple[int, ...]

    def upstream_shape(self, shape: Shape) -> Shape:
        return tuple(shape[i] for i in np.argsort(self.axes))

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.transpose(self.axes)

    def to_upstream(self, x: Any) -> Any:
        return x.transpose(tuple(int(i) for i in np.argsort(self.axes)))


@dataclasses.dataclass(frozen=True)
class Merge:
    """Upstream keeps our axes ``axis`` and ``axis + 1`` as one, the first varying slowest."""

    axis: int

    def upstream_shape(self, shape: Shape) -> Shape:
        i = self.axis
        return (*shape[:i], math.prod(shape[i : i + 2]), *shape[i + 2 :])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.reshape(shape)

    def to_upstream(self, x: Any) -> Any:
        return x.reshape(self.upstream_shape(x.shape))


@dataclasses.dataclass(frozen=True)
class Unsqueeze:
    """Upstream has axes of length one that we do not keep, at `axes` (counted upstream, ascending)."""

    axes: tuple[int, ...]

    def upstream_shape(self, shape: Shape) -> Shape:
        for axis in self.axes:
            shape = (*shape[:axis], 1, *shape[axis:])
        return shape

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.reshape(shape)

    def to_upstream(self, x: Any) -> Any:
        return x.reshape(self.upstream_shape(x.shape))


@dataclasses.dataclass(frozen=True)
class Unsqueezed:
    """We have an axis of length one, at `axis`, that upstream does not keep."""

    axis: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.reshape(shape)

    def to_upstream(self, x: Any) -> Any:
        return x.reshape(self.upstream_shape(x.shape))


@dataclasses.dataclass(frozen=True)
class Pad:
    """Upstream has `size` entries along `axis`; we hold more (a vocabulary padded for the mesh), the rest zeros."""

    axis: int
    size: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], self.size, *shape[self.axis + 1 :])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        if tuple(x.shape) == shape:
            return x
        out = np.zeros(shape, x.dtype)
        out[self._kept(shape)] = x
        return out

    def to_upstream(self, x: Any) -> Any:
        return x[self._kept(x.shape)]

    def _kept(self, shape: Shape) -> tuple[slice, ...]:
        return (*(slice(None),) * self.axis, slice(self.size))


@dataclasses.dataclass(frozen=True)
class Resized:
    """Upstream is another model's table of `rows` rows; we hold more along the first axis, of which `size` count.

    As ``resize_token_embeddings`` of `transformers` has it: rows that both have stay, further ones are drawn around
    the mean of the old ones with a billionth of their variance (here of each column by itself), always the same.
    What is beyond `size` (a vocabulary padded for the mesh) is zeros.
    """

    rows: int
    size: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (self.rows, *shape[1:])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        out, kept = np.zeros(shape, x.dtype), min(self.rows, self.size)
        out[:kept] = x[:kept]
        if self.size > kept:
            old = np.asarray(x, np.float32)
            noise = np.random.default_rng(0).standard_normal((self.size - kept, *shape[1:]), np.float32)
            out[kept : self.size] = old.mean(0) + np.float32(1e-9**0.5) * old.std(0) * noise
        return out

    def to_upstream(self, x: Any) -> Any:
        raise UserError(f"a table that was made from one of {self.rows} rows cannot be written as such again")


@dataclasses.dataclass(frozen=True)
class ZeroRows:
    """Upstream has `rows` more rows at the end of the first axis, which are zeros and which we do not keep."""

    rows: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (shape[0] + self.rows, *shape[1:])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        if np.any(np.asarray(x[shape[0] :])):
            raise UserError(f"the last {self.rows} of {x.shape[0]} rows must be zeros and are not")
        return x[: shape[0]]

    def to_upstream(self, x: Any) -> Any:
        return np.concatenate([x, np.zeros((self.rows, *x.shape[1:]), x.dtype)])


@dataclasses.dataclass(frozen=True)
class Expand:
    """Upstream has `rows` rows along the first axis; each stands for a run of equal rows of ours."""

    rows: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (self.rows, *shape[1:])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return np.repeat(x, shape[0] // self.rows, axis=0)

    def to_upstream(self, x: Any) -> Any:
        return _first_of_equal_rows(x, self.rows)


@dataclasses.dataclass(frozen=True)
class Collapse:
    """Upstream has `rows` rows along the first axis, in runs of equal ones; we keep one row of each run."""

    rows: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return (self.rows, *shape[1:])

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return _first_of_equal_rows(x, shape[0])

    def to_upstream(self, x: Any) -> Any:
        return np.repeat(x, self.rows // x.shape[0], axis=0)


@dataclasses.dataclass(frozen=True)
class HalfSplit:
    """Upstream rotates neighbouring pairs, we the two halves: rows of each head change their order.

    The first axis holds heads of `head_dim` rows each. Upstream (Meta's releases) row ``2 j + k`` of a head is what
    Hugging Face, and we, keep as row ``k head_dim / 2 + j``.
    """

    head_dim: int

    def upstream_shape(self, shape: Shape) -> Shape:
        return shape

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return x.reshape(-1, self.head_dim // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

    def to_upstream(self, x: Any) -> Any:
        return x.reshape(-1, 2, self.head_dim // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Several transforms; the first is the nearest to upstream."""

    steps: tuple[Transform, ...]

    def upstream_shape(self, shape: Shape) -> Shape:
        for step in reversed(self.steps):
            shape = step.upstream_shape(shape)
        return shape

    def to_ours(self, x: Any, shape: Shape) -> Any:
        shapes = [shape]
        for step in self.steps[:0:-1]:
            shapes.append(step.upstream_shape(shapes[-1]))
        for step, after in zip(self.steps, reversed(shapes), strict=False):
            x = step.to_ours(x, after)
        return x

    def to_upstream(self, x: Any) -> Any:
        for step in reversed(self.steps):
            x = step.to_upstream(x)
        return x


def _first_of_equal_rows(x: Any, rows: int) -> Any:
    runs = np.asarray(x).reshape(rows, -1, *x.shape[1:])
    if not (runs == runs[:, :1]).all():
        raise UserError(
            f"{x.shape[0]} rows do not reduce to {rows}: rows of one run differ; let the config keep them all"
        )
    return runs[:, 0]


def row_major(x: Shaped[np.ndarray, "*n"]) -> Shaped[np.ndarray, "*n"]:
    """`x` in row-major order; what has its axes permuted is copied strip by strip.

    NumPy's own copy then jumps through all of the memory for each row that it writes, which takes twice as long.
    """
    axis = int(np.argmax(x.strides)) if x.ndim else 0
    if not axis or x.flags.c_contiguous:
        return np.asarray(x, order="C")
    out, step = np.empty(x.shape, x.dtype), max(1, STRIP // x.strides[axis])
    for start in range(0, x.shape[axis], step):
        strip = (*(slice(None),) * axis, slice(start, start + step))
        out[strip] = x[strip]
    return out


SAME = Chain(())
LINEAR = Transpose((1, 0))  # [out, in] -> [in, out]
CONV = Transpose((2, 3, 1, 0))  # OIHW -> HWIO
POINTWISE = Chain((Unsqueeze((2, 3)), LINEAR))  # a 1x1 convolution, [O, I, 1, 1] -> [I, O]
HEADS_IN = Chain((LINEAR, Merge(1)))  # [N*H, D] -> [D, N, H]
HEADS_OUT = Chain((LINEAR, Merge(0)))  # [D, N*H] -> [N, H, D]
HEADS_BIAS = Merge(0)  # [N*H] -> [N, H]


def resized_vocabulary(rows: int, size: int) -> tuple[Transform, Transform]:
    """(embedding table, output head) of `size` words from another model's of `rows`; for `Rule.also`."""
    return Resized(rows, size), Chain((Resized(rows, size), LINEAR))


def vocabulary(size: int) -> Transform:
    """An embedding table: upstream [size, D], ours [padded, D]."""
    return Pad(0, size)


def vocabulary_head(size: int) -> Transform:
    """An output head: upstream [size, D], ours [D, padded]."""
    return Chain((LINEAR, Pad(1, size)))
