"""Positions on a grid of tokens: rotary angles by row and column, sine-cosine embeddings, orders of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Num

from unitok_jax.layers.rope import rope_angles


def grid_angles(
    y: Num[jax.Array, "*n"], x: Num[jax.Array, "*n"], head_dim: int, theta: float = 10000.0
) -> Float[jax.Array, "*n half"]:
    """Rotary angles of positions on a plane, float32: the first half of a head's pairs turns by x, the other by y."""
    return jnp.concatenate([rope_angles(at, head_dim // 2, theta) for at in (x, y)], -1)


def raster(rows: int, columns: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """(y, x) of every token, row after row."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return y, x


def patch_raster(rows: int, columns: int, side: int) -> Int[np.ndarray, "n"]:
    """Raster indices in patch-raster order: `side` x `side` blocks row after row, each block row after row.

    Raises:
        ValueError: unless `side` divides rows and columns.
    """
    if rows % side or columns % side:
        raise ValueError(f"blocks of {side} x {side} do not tile {rows} x {columns}")
    grid = np.arange(rows * columns).reshape(rows, columns)
    return rearrange(grid, "(h r) (w s) -> (h w r s)", r=side, s=side)


def patch_raster_places(
    index: Int[Array, "*i"], columns: Int[Array, "*c"], side: int
) -> tuple[Int[Array, "*n"], Int[Array, "*n"]]:
    """(y, x) of the token at place `index` of the patch-raster order of a grid with `columns` columns (broadcast)."""
    block, inside = index // side**2, index % side**2
    across = jnp.maximum(columns // side, 1)
    return block // across * side + inside // side, block % across * side + inside % side


def sincos(y: Num[Array, "*n"], x: Num[Array, "*n"], width: int) -> Float[Array, "*n width"]:
    """The fixed embedding of positions on a plane: sines and cosines of x, then of y, with `width` / 4 frequencies
    ``10000^(-4k / width)`` each; float32."""
    frequencies = 10000.0 ** (-jnp.arange(width // 4, dtype=jnp.float32) / (width // 4))

    def along(at: Array) -> Array:
        angles = at.astype(jnp.float32)[..., None] * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)

    return jnp.concatenate([along(x), along(y)], -1)
