"""How the tensors on the two sides of a rule correspond: one to one, copies, one cut into several, or the reverse.

All axes, sizes and shapes in this file are those of the upstream layout. Each kind offers

* ``upstream_shapes(keys, shapes)``: of its `keys` upstream tensors, from the shapes of ours in the upstream layout;
* ``join(tensors, shapes)``: upstream tensors to ours (still in the upstream layout);
* ``part(tensors, number, keys)``: upstream tensor `number` from all of ours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.transforms import Shape


@dataclasses.dataclass(frozen=True)
class One:
    """One upstream tensor is one of ours (or one layer's slice of it)."""

    def upstream_shapes(self, keys: int, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(shapes)

    def join(self, tensors: Sequence[Any], shapes: Sequence[Shape]) -> list[Any]:
        return list(tensors)

    def part(self, tensors: Sequence[Any], number: int, keys: int) -> Any:
        return tensors[0]


@dataclasses.dataclass(frozen=True)
class Tie:
    """Several upstream tensors are copies of one of ours: import wants them equal, export writes them all.

    Attributes:
        equal: False where they are versions of one tensor (a training state beside its moving average): import
            then takes the last one named.
    """

    equal: bool = True

    def upstream_shapes(self, keys: int, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(shapes) * keys

    def join(self, tensors: Sequence[Any], shapes: Sequence[Shape]) -> list[Any]:
        if self.equal and not all(np.array_equal(tensors[0], other) for other in tensors[1:]):
            raise UserError("tied tensors differ; set the config's tying to off to load them apart")
        return [tensors[-1]]

    def part(self, tensors: Sequence[Any], number: int, keys: int) -> Any:
        return tensors[0]


@dataclasses.dataclass(frozen=True)
class Fuse:
    """Several upstream tensors, joined along `axis` upstream, are one of ours; `sizes` unless they are equal."""

    axis: int = 0
    sizes: tuple[int, ...] | None = None

    def upstream_shapes(self, keys: int, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        sizes = self.sizes or (shapes[0][self.axis] // keys,) * keys
        return tuple(_with(shapes[0], self.axis, size) for size in sizes)

    def join(self, tensors: Sequence[Any], shapes: Sequence[Shape]) -> list[Any]:
        return [np.concatenate(tensors, self.axis)]

    def part(self, tensors: Sequence[Any], number: int, keys: int) -> Any:
        shapes = self.upstream_shapes(keys, [tensors[0].shape])
        start = sum(shape[self.axis] for shape in shapes[:number])
        return _cut(tensors[0], self.axis, start, shapes[number][self.axis])


@dataclasses.dataclass(frozen=True)
class Split:
    """One upstream tensor, cut along `axis` upstream, is several of ours (a fused q, k, v projection).

    Several upstream names are versions of it, as with ``Tie(equal=False)``: the last is read, all are written.
    """

    axis: int = 0

    def upstream_shapes(self, keys: int, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return (_with(shapes[0], self.axis, sum(shape[self.axis] for shape in shapes)),) * keys

    def join(self, tensors: Sequence[Any], shapes: Sequence[Shape]) -> list[Any]:
        ends = np.cumsum([shape[self.axis] for shape in shapes])
        pairs = zip(ends, shapes, strict=True)
        return [_cut(tensors[-1], self.axis, end - shape[self.axis], shape[self.axis]) for end, shape in pairs]

    def part(self, tensors: Sequence[Any], number: int, keys: int) -> Any:
        return np.concatenate(tensors, self.axis)


Kind = One | Tie | Fuse | Split
ONE = One()


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _cut(x: Any, axis: int, start: int, size: int) -> Any:
    return x[(*(slice(None),) * axis, slice(start, start + size))]
