"""SANA's diffusion transformer with linear attention (arXiv 2410.10629), as diffusers' ``SanaTransformer2DModel``.

It predicts the velocity ``noise - picture`` of a latent map from vectors that say what to draw.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Num

from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention
from unitok_jax.layers.conv import fold, unfold
from unitok_jax.layers.linear_attention import GatedConv, relu_attention
from unitok_jax.layers.masks import FULL, AttentionMask
from unitok_jax.layers.norms import RMSNorm, standardise
from unitok_jax.parallel.mesh import pin_rows

Latents = Float[Array, "batch rows columns channels"]
Sequence = Float[Array, "batch n D"]
Caption = Float[Array, "batch T C"]
FREQUENCIES = 256  # of the embedded time

SHARDING = (
    (r"\battn[12]/[qkv]/kernel$", ("fsdp", "tensor")),
    (r"\battn[12]/out/kernel$", ("tensor", "fsdp")),
    (r"\b(patch|projection/fc1|time/fc1|time/modulation)/kernel$", ("fsdp", "tensor")),
    (r"\b(projection/fc2|time/fc2|out)/kernel$(?<!attn1/out/kernel)(?<!attn2/out/kernel)", ("tensor", "fsdp")),
    (r"\bff/inverted/kernel$", ("fsdp", "tensor")),
    (r"\bff/depth/kernel$", (None, None, None, "tensor")),
    (r"\bff/point/kernel$", ("tensor", "fsdp")),
    (r"\bmodulation$", (None, None)),
    (r"\bcaption_norm/scale$", (None,)),
    (r"/bias$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class SanaConfig:
    """A transformer; the defaults are SANA-0.6B's with Tar's condition.

    Attributes:
        channels: of the latent map that is read.
        out_channels: of the velocity.
        heads, head_dim: of the linear attention; the width is their product.
        cross_heads, cross_head_dim: of the attention to the condition; they have the same product.
        layers: number of blocks.
        caption: channels of the condition's vectors: 1152 in Tar, 2304 in SANA.
        mlp_ratio: hidden channels of the feed-forward layers over the width.
        attention_bias: biases on q, k and v of the linear attention.
        patch: side of the square of latents that is one position.
        eps: of the layer norms.
        remat: whether the backward pass computes each block anew.
        unroll: blocks a scan step.
        dtype: what is computed in.
    """

    channels: int = 32
    out_channels: int = 32
    heads: int = 36
    head_dim: int = 32
    cross_heads: int = 16
    cross_head_dim: int = 72
    layers: int = 28
    caption: int = 1152
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    patch: int = 1
    eps: float = 1e-6
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"

    def __post_init__(self):
        if self.cross_heads * self.cross_head_dim != self.width:
            raise UserError(
                f"sana: cross_heads {self.cross_heads} x cross_head_dim {self.cross_head_dim} must be the width, "
                f"heads x head_dim = {self.width}"
            )

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return self.heads * self.head_dim


class LinearAttention(nn.Module):
    """Self-attention without a softmax."""

    config: SanaConfig

    @nn.compact
    def __call__(self, x: Sequence) -> Sequence:
        c = self.config

        def heads(name: str) -> Array:
            y = nn.Dense(c.width, use_bias=c.attention_bias, dtype=c.dtype, name=name)(x)
            return y.reshape(*x.shape[:2], c.heads, c.head_dim)

        read = relu_attention(heads("q"), heads("k"), heads("v"))
        return nn.Dense(c.width, dtype=c.dtype, name="out")(read.reshape(x.shape))


class CrossAttention(nn.Module):
    """Softmax attention of positions to the condition."""

    config: SanaConfig

    @nn.compact
    def __call__(self, x: Sequence, caption: Float[Array, "batch T D"], mask: AttentionMask) -> Sequence:
        c = self.config

        def heads(name: str, of: Array) -> Array:
            y = nn.Dense(c.width, dtype=c.dtype, name=name)(of)
            return y.reshape(*of.shape[:2], c.cross_heads, c.cross_head_dim)

        read = attention(heads("q", x), heads("k", caption), heads("v", caption), mask)
        return nn.Dense(c.width, dtype=c.dtype, name="out")(read.reshape(x.shape))


class Block(nn.Module):
    """Linear attention, cross-attention and a gated convolution, as a scan step.

    The time shifts, scales and gates the first and the last; cross-attention reads what has no norm.
    """

    config: SanaConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(
        self, x: Sequence, caption: Float[Array, "batch T D"], time: Float[Array, "batch six D"], mask: AttentionMask
    ) -> tuple[Sequence, Sequence]:
        c, x = self.config, pin_rows(x)
        init = nn.initializers.normal(c.width**-0.5)
        table = self.param("modulation", init, (6, c.width))
        parts = (table.astype(x.dtype) + time)[:, :, None]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (parts[:, i] for i in range(6))
        h = standardise(x, c.eps) * (1 + scale) + shift
        x = x + gate * LinearAttention(c, name="attn1")(h)
        x = x + CrossAttention(c, name="attn2")(x, caption, mask)
        h = standardise(x, c.eps) * (1 + ff_scale) + ff_shift
        feed = GatedConv(int(c.mlp_ratio * c.width), dtype=c.dtype, name="ff")
        x = x + ff_gate * feed(h.reshape(len(x), *self.grid, -1)).reshape(x.shape)
        return x, x


class Time(nn.Module):
    """Timesteps to the vector that modulates the head, [B, D], and the one that modulates the blocks, [B, 6D]."""

    config: SanaConfig

    @nn.compact
    def __call__(self, timesteps: Num[Array, "batch"]) -> tuple[Float[Array, "batch D"], Float[Array, "batch six_D"]]:
        c = self.config
        waves = embed_time(timesteps).astype(c.dtype)
        h = nn.silu(nn.Dense(c.width, dtype=c.dtype, name="fc1")(waves))
        h = nn.Dense(c.width, dtype=c.dtype, name="fc2")(h)
        return h, nn.Dense(6 * c.width, dtype=c.dtype, name="modulation")(nn.silu(h))


class Projection(nn.Module):
    """The condition's vectors to the transformer's width."""

    config: SanaConfig

    @nn.compact
    def __call__(self, caption: Caption) -> Float[Array, "batch T D"]:
        c = self.config
        h = nn.gelu(nn.Dense(c.width, dtype=c.dtype, name="fc1")(caption), approximate=True)
        return nn.Dense(c.width, dtype=c.dtype, name="fc2")(h)


class Sana(nn.Module):
    """The transformer. Parameters: ``patch``, ``projection``, ``caption_norm``, ``time``, ``blocks/span_0_<n>``,
    ``modulation`` [2, D] and ``out``.
    """

    config: SanaConfig

    @nn.compact
    def __call__(
        self,
        latents: Latents,
        caption: Caption,
        timesteps: Num[Array, "batch"],
        seen: Bool[Array, "batch T"] | None = None,
    ) -> tuple[Float[Array, "batch rows columns out"], dict[str, Any]]:
        """The velocity at noisy latents.

        Args:
            latents: [B, h, w, C].
            caption: the condition's vectors.
            timesteps: between 0 and 1000.
            seen: which vectors of the condition count; all by default.

        Returns:
            [B, h, w, C] in the compute dtype, and ``{"caption", "time", "modulation", "blocks"}``, the last
            [layers, B, n, D].
        """
        c = self.config
        grid = (latents.shape[1] // c.patch, latents.shape[2] // c.patch)
        x = nn.Dense(c.width, dtype=c.dtype, name="patch")(fold(latents, c.patch))
        x = x.reshape(len(x), -1, c.width)
        time, modulation = Time(c, name="time")(timesteps)
        caption = RMSNorm(1e-5, name="caption_norm")(Projection(c, name="projection")(caption))
        six = modulation.reshape(len(x), 6, c.width)
        x, blocks = _Blocks(c, grid, name="blocks")(x, caption, six, _mask(seen, x.shape[1]))
        table = self.param("modulation", nn.initializers.normal(c.width**-0.5), (2, c.width))
        shift, scale = jnp.split(table.astype(x.dtype) + time[:, None], 2, axis=1)
        x = standardise(x, c.eps) * (1 + scale) + shift
        x = nn.Dense(c.patch**2 * c.out_channels, dtype=c.dtype, name="out")(x)
        velocity = unfold(x.reshape(len(x), *grid, -1), c.patch)
        return velocity, {"caption": caption, "time": time, "modulation": modulation, "blocks": blocks}


class _Blocks(nn.Module):
    """All blocks as one scan; also hands out what each makes."""

    config: SanaConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Sequence, caption: Array, time: Array, mask: AttentionMask) -> tuple[Sequence, Array]:
        block = nn.remat(Block, prevent_cse=False) if self.config.remat else Block
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.layers,
            unroll=self.config.unroll,
        )
        return scanned(self.config, self.grid, name=f"span_0_{self.config.layers}")(x, caption, time, mask)


def embed_time(timesteps: Num[Array, "batch"]) -> Float[Array, "batch waves"]:
    """Cosines, then sines, of the timesteps at 128 frequencies from 1 down to 1/10,000, float32."""
    half = FREQUENCIES // 2
    rates = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * rates
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _mask(seen: Array | None, length: int) -> AttentionMask:
    if seen is None:
        return FULL
    queries = jnp.ones((len(seen), length), jnp.int32)
    return AttentionMask(q_segments=queries, k_segments=seen.astype(jnp.int32), causal=False)
