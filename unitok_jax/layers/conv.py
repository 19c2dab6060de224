"""Convolutional bricks in NHWC: group norm, residual block, resampling, single-head attention over a map.

They follow taming-transformers' blocks, which Chameleon's VQGAN, LlamaGen's VQ-VAE and DualToken's pixel decoder share.
"""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import FULL
from unitok_jax.parallel.mesh import pin_rows

Map = Float[Array, "batch height width channels"]
Mapped = Float[Array, "batch rows columns features"]  # another size or width than the input's

# How a kernel [rows, columns, in, out] lies on the mesh: cut by output channels alone. Were it cut by `fsdp` over input
# and by `tensor` over output channels, XLA's partitioner (jaxlib 0.10.2) would give convolutions of small maps a wrong
# gradient with respect to their input wherever `data`, `fsdp` and `tensor` all are longer than 1.
CONV_KERNEL = (None, None, None, ("tensor", "fsdp"))
CONV1_KERNEL = CONV_KERNEL[2:]  # [in, out], for the same reason in the attention of small maps


class GroupNorm(nn.Module):
    """Group normalisation with float32 statistics over the positions and the channels of a group.

    Attributes:
        groups: number of groups; where it does not divide the channels, their greatest common divisor is used,
            so that narrow networks need no setting of their own.
        epsilon: added to the variance.
    """

    groups: int = 32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Map) -> Map:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        return group_normalise(x, scale, bias, self.groups, self.epsilon)


def group_normalise(
    x: Map,
    scale: Float[Array, "*#batch channels"],
    bias: Float[Array, "*#batch channels"],
    groups: int,
    epsilon: float,
) -> Map:
    """Group normalisation by a scale and a bias of the model's, [C], or of each picture's, [B, 1, 1, C]."""
    channels = x.shape[-1]
    groups = math.gcd(groups, channels)
    share = x.shape[1] * x.shape[2] * (channels // groups)
    wide = x.astype(jnp.float32)

    def over_group(sums: Float[Array, "batch channels"]) -> Float[Array, "batch 1 1 channels"]:
        means = sums.reshape(-1, groups, channels // groups).sum(-1) / share
        return jnp.repeat(means, channels // groups, axis=-1)[:, None, None]

    # Summed over positions first and over a group's channels after: 4 times as fast on CPU as one reduction.
    centred = wide - over_group(wide.sum((1, 2)))
    inverse = jax.lax.rsqrt(over_group(jnp.square(centred).sum((1, 2))) + epsilon)
    return (centred * (inverse * scale) + bias).astype(x.dtype)


def conv3(features: int, dtype: DTypeLike, name: str | None, use_bias: bool = True) -> nn.Conv:
    """A 3x3 convolution that keeps the size; call inside a compact module."""
    return nn.Conv(features, (3, 3), padding=1, use_bias=use_bias, dtype=dtype, name=name)


def conv1(features: int, dtype: DTypeLike, name: str | None, use_bias: bool = True) -> nn.Dense:
    """A 1x1 convolution: a linear layer at each pixel, with a kernel [in, out]; 7 times as fast on CPU."""
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, name=name)


def downsample(features: int, dtype: DTypeLike, name: str | None) -> nn.Conv:
    """A 3x3 convolution of stride 2 with zeros padded on the right and at the bottom only: halves the size."""
    return nn.Conv(features, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=dtype, name=name)


def double(x: Map) -> Mapped:
    """Doubles the size: repeats each pixel 2x2."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def fold(x: Map, patch: int | tuple[int, int]) -> Mapped:
    """Lays the pixels of each `patch` side by side: [B, H/p, W/p, p*p*C]; (rows, columns) where it is no square."""
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return rearrange(x, "b (h r) (w s) c -> b h w (r s c)", r=rows, s=columns)


def unfold(x: Map, patch: int | tuple[int, int]) -> Mapped:
    """Undoes `fold`."""
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return rearrange(x, "b h w (r s c) -> b (h r) (w s) c", r=rows, s=columns)


class ResnetBlock(nn.Module):
    """Norm, swish, 3x3 convolution, twice, around a shortcut (1x1 convolution where the channels change).

    Attributes:
        features: channels of the result.
        groups: of the norms.
        dtype: what is computed in.
        use_bias: biases on the convolutions.
    """

    features: int
    groups: int = 32
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        x = pin_rows(x)
        h = nn.swish(GroupNorm(self.groups, name="norm1")(x))
        h = conv3(self.features, self.dtype, "conv1", self.use_bias)(h)
        h = nn.swish(GroupNorm(self.groups, name="norm2")(h))
        h = conv3(self.features, self.dtype, "conv2", self.use_bias)(h)
        if x.shape[-1] != self.features:
            x = conv1(self.features, self.dtype, "shortcut", self.use_bias)(x)
        return x + h


class AttentionBlock(nn.Module):
    """Residual single-head attention of every position of a map to every other; logits scaled by channels^-0.5."""

    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x = pin_rows(x)
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, name="norm")(x)
        q, k, v = (
            conv1(channels, self.dtype, name)(h).reshape(batch, height * width, 1, channels) for name in ("q", "k", "v")
        )
        h = attention(q, k, v, FULL).reshape(x.shape)
        return x + conv1(channels, self.dtype, "out")(h)
