"""Bricks of linear-attention networks: EfficientViT's and SANA's attention without a softmax, and their feed-forward.

Sources: arXiv 2205.14756 (EfficientViT), arXiv 2410.10629 (SANA); the normalising constants are diffusers'.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.layers.norms import rms_normalise

TINY = 1e-15  # added to what a query's weights sum to
Heads = Float[Array, "batch n heads head_dim"]
Map = Float[Array, "batch rows columns channels"]


def relu_attention(q: Heads, k: Heads, v: Heads, *, quadratic: bool = False) -> Heads:
    """Attention whose weights are ``relu(q) . relu(k)`` over their sum, float32 inside.

    Args:
        q, k, v: [B, n, N, H].
        quadratic: makes the [n, n] weights, which is cheaper where positions are fewer than channels; the other way
            round the keys and values of all positions are summed first.
    """
    dtype = v.dtype
    q, k = jax.nn.relu(q), jax.nn.relu(k)
    if quadratic:
        weights = jnp.einsum("bqnh,bknh->bnkq", q, k).astype(jnp.float32)
        weights = weights / (weights.sum(2, keepdims=True) + TINY)
        return jnp.einsum("bknh,bnkq->bqnh", v, weights.astype(dtype))
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    summed = jnp.einsum("bknh,bkng->bnhg", v, k)
    read = jnp.einsum("bnhg,bqng->bqnh", summed, q)
    total = jnp.einsum("bng,bqng->bqn", k.sum(1), q)
    return (read / (total[..., None] + TINY)).astype(dtype)


class BiasedRMSNorm(nn.Module):
    """RMSNorm over the last axis with a scale and a bias."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return rms_normalise(x, self.epsilon) * scale.astype(x.dtype) + bias.astype(x.dtype)


class GatedConv(nn.Module):
    """A feed-forward layer over a map: widened, mixed with its neighbours channel by channel, gated, narrowed.

    Attributes:
        hidden: channels of the gated part; twice as many go through the 3x3 convolution.
        norm: whether an RMSNorm with a bias follows.
    """

    hidden: int
    norm: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Map) -> Map:
        wide = 2 * self.hidden
        h = nn.silu(nn.Dense(wide, dtype=self.dtype, name="inverted")(x))
        h = nn.Conv(wide, (3, 3), padding=1, feature_group_count=wide, dtype=self.dtype, name="depth")(h)
        value, gate = jnp.split(h, 2, -1)
        h = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="point")(value * nn.silu(gate))
        return BiasedRMSNorm(name="norm")(h) if self.norm else h
