"""Normalisations. Statistics are float32 whatever the activations are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float


def rms_normalise(x: Float[jax.Array, "*B D"], epsilon: float) -> Float[jax.Array, "*B D"]:
    """``x / sqrt(mean(x^2) + epsilon)`` over the last axis, cast back to the dtype of x."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + epsilon)).astype(x.dtype)


def standardise(x: Float[jax.Array, "*B D"], epsilon: float) -> Float[jax.Array, "*B D"]:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis, cast back to the dtype of x."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + epsilon)).astype(x.dtype)


def unit_length(x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B D"]:
    """``x / |x|`` over the last axis, float32; a zero vector stays zero."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, -1, keepdims=True), 1e-24))


class RMSNorm(nn.Module):
    """RMSNorm over the last axis; the weight multiplies after the cast back (as Llama's in `transformers`).

    On [..., heads, head_dim] it is Qwen3's per-head norm: one weight for all heads.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return rms_normalise(x, self.epsilon) * scale.astype(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with scale and bias."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return standardise(x, self.epsilon) * scale.astype(x.dtype) + bias.astype(x.dtype)


class HeadLayerNorm(nn.Module):
    """LayerNorm of each head by itself, as Chameleon's q and k norms (arXiv 2405.09818, section 2.2).

    Attributes:
        groups: rows of the parameters [groups, head_dim]; each serves a run of ``heads / groups`` heads.
        epsilon: added to the variance.
    """

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*B N H"]) -> Float[jax.Array, "*B N H"]:
        heads, head_dim = x.shape[-2:]
        scale = self.param("scale", nn.initializers.ones, (self.groups, head_dim))
        bias = self.param("bias", nn.initializers.zeros, (self.groups, head_dim))
        grouped = standardise(x, self.epsilon).reshape(*x.shape[:-2], self.groups, heads // self.groups, head_dim)
        return (grouped * scale[:, None].astype(x.dtype) + bias[:, None].astype(x.dtype)).reshape(x.shape)
