"""SigLIP's sigmoid loss between pictures and texts (arXiv 2303.15343, algorithm 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unitok_jax.layers.norms import unit_length

Features = Float[Array, "batch width"]


def sigmoid_loss(
    images: Features,
    texts: Features,
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    same: Bool[Array, "batch batch"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Judges every pair of the global batch: row i of both is a match, all others are not.

    Args:
        images: [B, D], normalised here.
        texts: [B, D], normalised here.
        logit_scale: logarithm of what multiplies the cosines.
        logit_bias: added to them.
        same: pairs whose texts are equal, the diagonal included; off the diagonal they are left out of the loss, and
            finding one of them counts as right. None: all texts differ.

    Returns:
        The loss, summed over pairs and divided by B, and the share of pictures and texts whose best match is right.
    """
    match = jnp.eye(len(images), dtype=bool)
    same = match if same is None else same
    scale, bias = logit_scale.astype(jnp.float32), logit_bias.astype(jnp.float32)
    cosines = jnp.matmul(unit_length(images), unit_length(texts).T, precision=jax.lax.Precision.HIGHEST)
    logits = cosines * jnp.exp(scale) + bias
    losses = -jax.nn.log_sigmoid(jnp.where(match, logits, -logits))
    loss = jnp.where(same & ~match, 0, losses).sum() / len(images)
    return loss, retrieval_accuracy(cosines, same)


def retrieval_accuracy(scores: Float[Array, "batch batch"], right: Bool[Array, "batch batch"]) -> Float[Array, ""]:
    """Share of rows and columns, both directions alike, whose highest score is a right one."""
    rows = jnp.take_along_axis(right, scores.argmax(1)[:, None], 1)
    columns = jnp.take_along_axis(right, scores.argmax(0)[None], 0)
    return (rows.mean() + columns.mean()) / 2
