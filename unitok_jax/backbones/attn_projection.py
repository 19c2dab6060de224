"""DualToken's attention projection between tower width and code width (released ``AttnProjection``)."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import AttentionMask
from unitok_jax.layers.norms import LayerNorm
from unitok_jax.parallel.mesh import pin_rows

Sequence = Float[Array, "batch length channels"]
Projected = Float[Array, "batch positions out"]

EPS, MLP_EPS = 1e-5, 1e-6

SHARDING: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/attention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"/attention/[qkv]/bias$", ("tensor", None)),
    (r"/attention/out/kernel$", (None, "fsdp")),
    (r"/proj/kernel$", ("fsdp", None)),
    (r"/mlp/(gate|up)/kernel$", ("fsdp", "tensor")),
    (r"/mlp/(gate|up)/bias$", ("tensor",)),
    (r"/mlp/down/kernel$", ("tensor", "fsdp")),
    (r"/(attention/out|proj|mlp/down)/bias$", (None,)),
    (r"/(norm|norm1|norm2|norm3)/(scale|bias)$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
    """An attention projection; one of the widths must be a multiple of the other.

    Attributes:
        features, out: channels of what goes in and of what comes out.
        heads: attention heads over the larger of the two. On the way down they are averaged, on the way up they
            stand side by side.
        causal: a position reads those up to itself.
        dtype: what is computed in.
    """

    features: int
    out: int
    heads: int
    causal: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        small, large = sorted((self.features, self.out))
        if large % small or large % self.heads:
            raise UserError(
                f"attention projection: {self.features} -> {self.out} with {self.heads} heads; the larger width must "
                "be a multiple of the smaller and of the heads"
            )

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return max(self.features, self.out) // self.heads


def torch_uniform(fan_in: int) -> Any:
    """How torch draws the weights and biases of its linear layers: uniform below 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _dense(features: int | tuple[int, ...], fan_in: int, dtype: str, name: str, zero_bias: bool = False) -> nn.Module:
    draw = torch_uniform(fan_in)
    bias = nn.initializers.zeros if zero_bias else draw
    return nn.DenseGeneral(features, dtype=dtype, kernel_init=draw, bias_init=bias, name=name)


class Attention(nn.Module):
    """Queries from `at`, keys and values from the whole sequence; the bias of the keys is zero and stays so."""

    config: ProjectionConfig

    @nn.compact
    def __call__(self, x: Sequence, at: Float[Array, "batch positions channels"], index: Any) -> Projected:
        c = self.config
        heads = functools.partial(_dense, (c.heads, c.head_dim), c.features, c.dtype, zero_bias=True)
        q, k, v = heads("q")(at), heads("k")(x), heads("v")(x)
        read = attention(q, k, v, AttentionMask(q_index=index, causal=c.causal))
        down = c.features > c.out
        read = adaptive_mean(read.mean(-2), c.out) if down else read.reshape(*read.shape[:-2], c.out)
        return _dense(c.out, c.out, c.dtype, "out")(read)


class GatedGELU(nn.Module):
    """``down(gelu(gate(v)) * up(v))`` of the normed input, with biases; the GELU is the tanh form."""

    config: ProjectionConfig

    @nn.compact
    def __call__(self, x: Projected) -> Projected:
        c = self.config
        x = LayerNorm(MLP_EPS, name="norm")(x)
        wide = functools.partial(_dense, 2 * c.out, c.out, c.dtype)
        return _dense(c.out, 2 * c.out, c.dtype, "down")(nn.gelu(wide("gate")(x)) * wide("up")(x))


class AttnProjection(nn.Module):
    """``y = proj(norm3(x)) + attention(norm1(x))``, then ``y + mlp(norm2(y))``."""

    config: ProjectionConfig

    @nn.compact
    def __call__(self, x: Sequence, at: Int[Array, "batch positions"] | None = None) -> Projected:
        """Projects a sequence, or, given indices `at`, only these of its positions."""
        c = self.config
        norm1, norm3 = LayerNorm(EPS, name="norm1"), LayerNorm(EPS, name="norm3")
        x = pin_rows(x.astype(c.dtype))
        here = x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)
        y = _dense(c.out, c.features, c.dtype, "proj")(norm3(here))
        read = norm1(x)
        y = y + Attention(c, name="attention")(read, read if at is None else norm1(here), at)
        return y + GatedGELU(c, name="mlp")(LayerNorm(EPS, name="norm2")(y))


def adaptive_mean(x: Float[Array, "*n width"], out: int) -> Float[Array, "*n out"]:
    """Means over `out` bins of the last axis, bin i from floor(i w / out) to ceil((i + 1) w / out)."""
    width = x.shape[-1]
    if width == out:
        return x
    bins = [(i * width // out, -(-(i + 1) * width // out)) for i in range(out)]
    return jnp.stack([x[..., start:end].mean(-1) for start, end in bins], -1)
