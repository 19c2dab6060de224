"""Position tables brought to another grid, as PyTorch's ``interpolate`` does it for SigLIP and SigLIP2."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unitok_jax.errors import UserError
from unitok_jax.settings import near

CUBIC = -0.75  # PyTorch's cubic convolution coefficient


def resize(table: Float[Array, "positions D"], grid: tuple[int, int], method: str) -> Float[Array, "n D"]:
    """Resizes a square table of positions to `grid`; unchanged where it has that grid already.

    Args:
        table: row-major, [side * side, D].
        grid: (rows, columns) wanted.
        method: a name in `METHODS`.

    Returns:
        float32 [rows * columns, D].

    Raises:
        UserError: for an unknown method.
    """
    if method not in METHODS:
        raise UserError(f"siglip: no position resize {method!r}.{near(method, METHODS)}")
    side = round(len(table) ** 0.5)
    table = table.astype(jnp.float32)
    if grid == (side, side):
        return table
    rows, columns = (METHODS[method](out, side).astype(np.float32) for out in grid)
    square = table.reshape(side, side, -1)
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, square, precision="highest").reshape(-1, table.shape[-1])


def bicubic(out: int, size: int) -> Float[np.ndarray, "out size"]:
    """Cubic convolution without antialiasing, edges repeated (transformers 5, SigLIP)."""
    return _cubic(out, size, size / out)


def bicubic_offset(out: int, size: int) -> Float[np.ndarray, "out size"]:
    """The same, sampled at steps of ``size / (out + 0.1)`` (transformers up to 4.43, SigLIP)."""
    return _cubic(out, size, size / (out + 0.1))


def bilinear_antialias(out: int, size: int) -> Float[np.ndarray, "out size"]:
    """Triangle filter, widened when the table shrinks (SigLIP2)."""
    scale = size / out
    centres = (np.arange(out)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def _cubic(out: int, size: int, step: float) -> Float[np.ndarray, "out size"]:
    at = (np.arange(out) + 0.5) * step - 0.5
    weights = np.zeros((out, size))
    for tap in range(-1, 3):
        source = np.floor(at) + tap
        column = np.clip(source, 0, size - 1).astype(int)
        np.add.at(weights, (np.arange(out), column), _cubic_kernel(np.abs(at - source)))
    return weights


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
    inner = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    outer = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, inner, np.where(distance < 2, outer, 0))


METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": bicubic,
    "bicubic_offset": bicubic_offset,
    "bilinear_antialias": bilinear_antialias,
}
