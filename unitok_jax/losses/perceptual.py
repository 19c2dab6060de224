"""LPIPS's distance between the features that a fixed network has of two pictures (arXiv 1801.03924, eq. 1)."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-10  # added to the norm; fixed by the published linear weights
AnyTap = Float[Array, "batch _ _ _"]  # each layer has its own size
Tap = Float[Array, "batch rows columns channels"]


def normalise(x: Tap) -> Tap:
    """``x / (|x| + epsilon)`` over the channels, float32; a zero vector stays zero and gets no gradient."""
    wide = x.astype(jnp.float32)
    squares = jnp.square(wide).sum(-1, keepdims=True)
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return wide / (norm + EPSILON)


def feature_distance(
    first: Sequence[AnyTap], second: Sequence[AnyTap], heads: Sequence[Float[Array, "_"]]
) -> Float[Array, "batch"]:
    """Squared differences of normalised features, weighted by channel, averaged over positions, summed over layers.

    Args:
        first, second: features of the two pictures, one map a layer.
        heads: weights of each layer's channels.
    """
    layers = zip(first, second, heads, strict=True)
    distances = (
        (jnp.square(normalise(a) - normalise(b)) * head.astype(jnp.float32)).sum(-1).mean((1, 2))
        for a, b, head in layers
    )
    return functools.reduce(jnp.add, distances)
