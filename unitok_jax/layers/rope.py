"""Rotary position embeddings (arXiv 2104.09864) in both layouts, from angle tables in float32."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

Layout = Literal["half", "interleaved"]


def rope_angles(positions: Num[jax.Array, "*B S"], head_dim: int, theta: float) -> Float[jax.Array, "*B S half"]:
    """Angles ``p * theta^(-2j / head_dim)``, float32, j = 0 .. head_dim / 2 - 1."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    return positions.astype(jnp.float32)[..., None] * frequencies


def rotate(
    x: Float[jax.Array, "*B S N H"],
    cos: Float[jax.Array, "*#B S half"],
    sin: Float[jax.Array, "*#B S half"],
    layout: Layout = "half",
) -> Float[jax.Array, "*B S N H"]:
    """Turns each channel pair of every head by its angle, in float32, and casts back.

    Args:
        x: queries or keys.
        cos, sin: of the angles, one per position and pair.
        layout: ``half`` pairs channel j with ``j + H/2`` (Llama in `transformers`), ``interleaved`` 2j with 2j + 1.
    """
    wide = x.astype(jnp.float32)
    cos, sin = cos[..., None, :], sin[..., None, :]
    if layout == "half":
        a, b = jnp.split(wide, 2, -1)
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    else:
        a, b = wide[..., 0::2], wide[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
    return turned.astype(x.dtype)
