"""Binary quantisation: the sign of each channel, read as groups of bits, and the losses that WeTok trains it with.

Source: arXiv 2508.05599 (WeTok) and its released group quantizer; the normalisations are those of the code, with the
paper's as options. A token is C channels of +1 or -1, in `groups` runs of C / groups bits; bit j of a group is its
channel j, the lowest first. So integers of groups of 8 bits are the bits packed as bytes, which is what records hold.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unitok_jax.errors import UserError

TEMPERATURE = 0.01
EPSILON = 1e-5  # inside the logarithm of the pooled histogram

Latents = Float[Array, "*positions channels"]


def signs(latents: Latents) -> Latents:
    """+1 where a channel is positive, else -1 (also at zero)."""
    return jnp.where(latents > 0, 1, -1).astype(latents.dtype)


def straight_through(latents: Latents) -> Latents:
    """The signs, with the gradient of the latents."""
    return latents + jax.lax.stop_gradient(signs(latents) - latents)


def check_groups(channels: int, groups: int) -> int:
    """Bits a group.

    Raises:
        UserError: unless the groups divide the channels into at most 16 bits each.
    """
    if groups < 1 or channels % groups or channels // groups > 16:
        raise UserError(f"binary codes: {channels} channels do not make {groups} groups of equal size, 16 bits at most")
    return channels // groups


def to_indices(codes: Latents, groups: int) -> Int[Array, "*positions groups"]:
    """The integer of each group, 0 .. 2^bits - 1."""
    bits = check_groups(codes.shape[-1], groups)
    on = (codes > 0).reshape(*codes.shape[:-1], groups, bits)
    return jnp.sum(on * (1 << jnp.arange(bits)), axis=-1, dtype=jnp.int32)


def from_indices(indices: Int[Array, "*positions groups"], channels: int) -> Float[Array, "*positions channels"]:
    """The signs that integers stand for, float32."""
    bits = check_groups(channels, indices.shape[-1])
    on = (indices[..., None] >> jnp.arange(bits)) & 1
    return (2.0 * on - 1).reshape(*indices.shape[:-1], channels).astype(jnp.float32)


def table(bits: int) -> Float[Array, "rows bits"]:
    """All sign vectors of a group, in the order of their integers."""
    return from_indices(jnp.arange(1 << bits)[:, None], bits)


def flip(codes: Latents, chance: Latents, share: Latents, rate: float) -> Latents:
    """Turns the sign of a channel where ``chance < rate * share``; both are uniform draws of the codes' shape.

    BitDance's training noise on what the language model reads: half of `rate` is flipped on average.
    """
    return jnp.where(chance < rate * share, -codes, codes)


def token_entropy(
    latents: Latents, groups: int, temperature: float = TEMPERATURE, sum_groups: bool = False
) -> Float[Array, "*positions"]:
    """How undecided each position's codes are, in nats: the entropy of the softmax over a group's 2^bits codes.

    The logits are twice the inner products over `temperature`, so the bits are independent and the entropy is the sum
    of theirs, with probability ``sigmoid(4 u / temperature)`` each.

    Args:
        latents: before quantisation, in [-1, 1] where they come from a SigLu.
        groups: of channels.
        temperature: of the softmax.
        sum_groups: sum over the groups (the paper's equation 3) instead of the mean (the code).
    """
    check_groups(latents.shape[-1], groups)
    entropies = _bit_entropy(4 * latents.astype(jnp.float32) / temperature)
    return entropies.sum(-1) / (1 if sum_groups else groups)


def _bit_entropy(logit: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The entropy of a coin whose log-odds are `logit`."""
    return jax.nn.softplus(-jnp.abs(logit)) + jnp.abs(logit) * jax.nn.sigmoid(-jnp.abs(logit))


def codebook_entropy(
    latents: Float[Array, "batch n channels"],
    groups: int,
    temperature: float = TEMPERATURE,
    weights: Float[Array, "batch"] | None = None,
    shards: int = 1,
) -> Float[Array, ""]:
    """How evenly the codes are used, in nats: the entropy of one histogram over all positions and groups.

    Args:
        latents: before quantisation.
        groups: of channels; they share the histogram, as in the code.
        temperature: of the soft assignment.
        weights: of the pictures (0 for padding).
        shards: the batch is cut into so many equal parts with a histogram of their own, and their entropies
            averaged: what the released training does, one part a device. 1 takes the global histogram.
    """
    bits = check_groups(latents.shape[-1], groups)
    batch, n = latents.shape[:2]
    weights = jnp.ones(batch) if weights is None else weights
    logits = 4 * latents.astype(jnp.float32).reshape(shards, batch // shards, n, groups, bits) / temperature
    parts = weights.reshape(shards, -1)

    # Position by position: all soft assignments at once would take 2^bits / bits times the latents' room.
    @jax.checkpoint
    def add(total: Array, position: Array) -> tuple[Array, None]:
        return total + jnp.einsum("sb,sbgr->sr", parts, _assignments(position), precision="highest"), None

    total, _ = jax.lax.scan(add, jnp.zeros((shards, 1 << bits)), jnp.moveaxis(logits, 2, 0))
    mean = total / (n * groups * jnp.maximum(parts.sum(-1, keepdims=True), 1e-9))
    return jnp.mean(-jnp.sum(mean * jnp.log(mean + EPSILON), -1))


def _assignments(logits: Float[Array, "*n bits"]) -> Float[Array, "*n rows"]:
    """Probability of each of the 2^bits codes, bit by bit: each one doubles the rows."""
    probabilities = jnp.ones((*logits.shape[:-1], 1))
    for bit in range(logits.shape[-1]):
        logit = logits[..., bit : bit + 1]
        halves = probabilities * jax.nn.sigmoid(-logit), probabilities * jax.nn.sigmoid(logit)
        probabilities = jnp.concatenate(halves, -1)
    return probabilities


def commitment_loss(latents: Latents) -> Float[Array, "*positions"]:
    """Mean squared distance to the codes, by position; the codes are fixed."""
    return jnp.mean(jnp.square(latents - jax.lax.stop_gradient(signs(latents))), axis=-1)


def histogram(indices: Int[Array, "batch *positions"], rows: int, filled: Bool[Array, "batch"]) -> Int[Array, "rows"]:
    """How often each integer occurs in the pictures that are there."""
    counted = jnp.broadcast_to(filled.reshape(-1, *[1] * (indices.ndim - 1)), indices.shape)
    return jnp.zeros(rows, jnp.int32).at[indices.reshape(-1)].add(counted.reshape(-1).astype(jnp.int32))
