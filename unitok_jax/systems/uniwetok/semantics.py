"""What UniWeTok's tokenizer learns besides reconstruction: to agree with a teacher, and to be predictable.

Pre-Post Distillation (arXiv 2602.14178, equations 4 and 5): embeddings pooled from the features before quantisation and
from the straight-through codes after it both point where the teacher's embedding does. Generative-Aware Prior
(equations 6 and 7): a small autoregressive network learns to predict the codes, and its gradient reaches the encoder.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unitok_jax.backbones.bitdance import BitDance, BitDanceConfig, by_step
from unitok_jax.layers.applied import applied
from unitok_jax.layers.norms import unit_length
from unitok_jax.sampling import x_prediction

PerPicture = Float[Array, "batch"]


def disagreement(embedding: Float[Array, "batch width"], teacher: Float[Array, "batch width"]) -> PerPicture:
    """One minus the cosine of the angle to the teacher's embedding, which is fixed."""
    return 1 - jnp.sum(unit_length(embedding) * unit_length(jax.lax.stop_gradient(teacher)), -1)


def prior_loss(
    config: BitDanceConfig,
    params: dict[str, Any],
    tokens: Float[Array, "batch n channels"],
    t: Float[Array, "batch n"],
    noise: Float[Array, "batch n channels"],
    grid: tuple[int, int] | None = None,
    stop_target: bool = False,
) -> tuple[PerPicture, dict[str, Array]]:
    """Mean squared error of the tokens that the prior predicts, by picture.

    Args:
        config, params: the prior.
        tokens: straight-through codes, row after row; the gradient reaches them as context, as noisy input and,
            unless `stop_target`, as target (the paper does not say; all three by default).
        t: a time a token, uniform.
        noise: standard normal.
        grid: (rows, columns) of the tokens; the config's by default.
        stop_target: whether the target is held fixed.

    Returns:
        The loss, and ``{"z", "condition", "predicted"}``, a row a token.
    """
    labels = jnp.zeros(len(tokens), jnp.int32)
    condition, _ = applied(BitDance(config), params, tokens, labels, grid)
    rows, target = by_step(config, tokens), jax.lax.stop_gradient(tokens) if stop_target else tokens
    z = x_prediction.between(rows, by_step(config, noise), t.reshape(-1))
    head = by_step(config, condition)
    predicted = applied(BitDance(config), params, z, t.reshape(-1), head, method="denoise")
    error = jnp.square(by_step(config, target) - predicted).reshape(len(tokens), -1).mean(-1)
    return error, {"z": z, "condition": head, "predicted": predicted}
