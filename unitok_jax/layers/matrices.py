"""Products over several axes, as products of matrices."""

import math
from typing import Any

import jax
from jaxtyping import Float

Axes = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def product_of_matrices(
    x: Float[jax.Array, "..."], kernel: Float[jax.Array, "..."], dimensions: Axes, **options: Any
) -> Float[jax.Array, "..."]:
    """`jax.lax.dot_general` of ``x [..., *K]`` and ``kernel [*K, *N]`` as one product of two matrices: [..., *N].

    Over several axes its gradient comes with its axes in another order, and is brought back by copies.

    Args:
        x, kernel: in any dtype.
        dimensions: the last axes of `x` and the first of `kernel`, as `flax.linen.DenseGeneral` gives them.
        options: of `jax.lax.dot_general`.
    """
    count = len(dimensions[0][0])
    rows, columns = x.shape[: x.ndim - count], kernel.shape[count:]
    inner = math.prod(kernel.shape[:count])
    matrices = x.reshape(*rows, inner), kernel.reshape(inner, -1)
    return jax.lax.dot_general(*matrices, (((len(rows),), (0,)), ((), ())), **options).reshape(*rows, *columns)
