"""Drawing the residual codes of one position: a loop over depths, inside the decode's loop over positions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unitok_jax.backbones.depth_head import DepthHead, DepthHeadConfig, new_memory
from unitok_jax.layers.applied import applied
from unitok_jax.quantizers.residual import Books, ResidualConfig
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import Keys, draw, step_keys
from unitok_jax.sampling.settings import Decoding

Rows = Callable[[Int[Array, ""], Int[Array, " samples"]], Float[Array, "samples features"]]


def draw_codes(
    config: DepthHeadConfig,
    params: Mapping[str, Any],
    hidden: Float[Array, "both hidden"],
    rows: Rows,
    decoding: Decoding,
    keys: Keys,
) -> tuple[Int[Array, "samples depth"], Float[Array, "samples features"], Float[Array, "depth samples codes"]]:
    """Draws a position's codes, depth by depth, from guided logits; all rows of a sample go on with its codes.

    Args:
        config, params: the head.
        hidden: last hidden states of the B conditional rows and, under guidance, the B unconditional ones.
        rows: the codebook rows of a depth's codes.
        decoding: how images are drawn, and the guidance scale.
        keys: [B], one a sample, for this position and head.

    Returns:
        The codes, the sum of their rows, and the guided logits (which cost nothing unless they are used).
    """
    head = DepthHead(config)
    samples = len(guidance.conditional(hidden, decoding))

    def step(carry: tuple[Any, Any], depth: Int[Array, ""]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        sums, memory = carry
        read = guidance.to_rows(sums, decoding)
        logits, memory = applied(head, params, hidden, read, memory, depth, method="step")
        guided = guidance.guide(logits, decoding)
        codes = draw(guided, step_keys(keys, depth), decoding.image)
        return (sums + rows(depth, codes), memory), (codes, guided)

    start = jnp.zeros((samples, config.code_features)), new_memory(config, len(hidden))
    (sums, _), (codes, guided) = jax.lax.scan(step, start, jnp.arange(config.depth))
    return codes.T, sums, guided


def rows_of(config: ResidualConfig, books: Books) -> Rows:
    """How `draw_codes` looks rows up in a quantizer's codebooks."""
    if config.shared:
        return lambda depth, codes: books["book_0"]["weight"][codes]
    stacked = jnp.stack([books[config.book(depth)]["weight"] for depth in range(config.depth)])
    return lambda depth, codes: stacked[depth, codes]
