"""A penalty on what was said before (arXiv 1909.05858, section 4.1)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def penalise(
    logits: Float[Array, "rows vocab"], said: Bool[Array, "rows vocab"], penalty: float
) -> Float[Array, "rows vocab"]:
    """Divides the positive logits of ids that were said by the penalty and multiplies the negative ones by it."""
    return jnp.where(said, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def mark(said: Bool[Array, "rows vocab"], ids: Int[Array, "rows S"]) -> Bool[Array, "rows vocab"]:
    """What was said, with more ids; those outside the vocabulary are passed over."""
    return said.at[jnp.arange(len(ids))[:, None], ids].set(True, mode="drop")
