"""Classifier-free guidance on a doubled batch: B conditional rows, then their B unconditional ones."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from unitok_jax.sampling.settings import Decoding

Rows = Shaped[Array, "rows *data"]
Samples = Shaped[Array, "samples *data"]


def rows_per_sample(decoding: Decoding) -> int:
    """2 under guidance, else 1: how many rows of the batch one sample takes."""
    return 1 if decoding.guidance == 1 else 2


def conditional(rows: Rows, decoding: Decoding) -> Samples:
    """The first B of an array over all rows."""
    return rows[: rows.shape[0] // rows_per_sample(decoding)]


def to_rows(samples: Samples, decoding: Decoding) -> Rows:
    """Gives every row of a sample the sample's value: [B, ...] to [R, ...]."""
    return jnp.concatenate([samples] * rows_per_sample(decoding))


def guide(
    logits: Float[Array, "rows vocab"], decoding: Decoding, where: Bool[Array, "samples"] | None = None
) -> Float[Array, "samples vocab"]:
    """``u + g (c - u)`` of the conditional logits c and the unconditional u, in the samples `where`; c elsewhere."""
    if rows_per_sample(decoding) == 1:
        return logits
    c, u = jnp.split(logits, 2)
    guided = decoding.guidance * (c - u) + u
    return guided if where is None else jnp.where(where[:, None], guided, c)
