"""The pre-norm transformer that both SigLIP towers stack, in scanned spans of layers."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import FULL
from unitok_jax.layers.mlp import MLP
from unitok_jax.layers.norms import LayerNorm
from unitok_jax.parallel.mesh import pin_rows

Sequence = Float[Array, "batch length D"]

SHARDING: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"\battention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"\battention/[qkv]/bias$", ("tensor", None)),
    (r"\battention/out/kernel$", ("tensor", None, "fsdp")),
    (r"\battention/out/bias$", (None,)),
    (r"\bmlp/fc1/kernel$", ("fsdp", "tensor")),
    (r"\bmlp/fc1/bias$", ("tensor",)),
    (r"\bmlp/fc2/kernel$", ("tensor", "fsdp")),
    (r"\bmlp/fc2/bias$", (None,)),
    (r"\b(norm|norm1|norm2|post_norm|final_norm)/(scale|bias)$", (None,)),
    (r"\bembeddings/position/embedding$", (None, "fsdp")),
)


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """What the vision and the text tower share; the defaults are SO400M's.

    Attributes:
        width: channels of the hidden states.
        ffn: width of the feed-forward layers.
        layers: number of layers.
        heads: attention heads; they divide `width`.
        eps: of every layer norm.
        cuts: layers before which a new span of stacked parameters begins.
        remat: whether the backward pass computes each layer anew instead of keeping its intermediates.
        unroll: layers a scan step.
        dtype: what is computed in, such as ``bfloat16``.
    """

    width: int = 1152
    ffn: int = 4304
    layers: int = 27
    heads: int = 16
    eps: float = 1e-6
    cuts: tuple[int, ...] = ()
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"siglip: heads {self.heads} must divide width {self.width}")
        if list(self.cuts) != sorted(set(self.cuts)) or not all(0 < cut < self.layers for cut in self.cuts):
            raise UserError(f"siglip: cuts {self.cuts} must rise and lie between 0 and layers {self.layers}")

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(first, end) layers of each span."""
        return tuple(itertools.pairwise((0, *self.cuts, self.layers)))


class Attention(nn.Module):
    """Multi-head attention without a mask; queries may come from elsewhere than keys and values."""

    config: TowerConfig

    @nn.compact
    def __call__(self, queries: Sequence, memory: Float[Array, "batch keys D"]) -> Sequence:
        c = self.config
        heads = (c.heads, c.width // c.heads)
        q = nn.DenseGeneral(heads, dtype=c.dtype, name="q")(queries)
        k, v = (nn.DenseGeneral(heads, dtype=c.dtype, name=name)(memory) for name in ("k", "v"))
        return nn.DenseGeneral(c.width, axis=(-2, -1), dtype=c.dtype, name="out")(attention(q, k, v, FULL))


class Block(nn.Module):
    """One layer, as a scan step that can also hand out its result."""

    config: TowerConfig
    every_layer: bool

    @nn.compact
    def __call__(self, x: Sequence, _: None) -> tuple[Sequence, Sequence | None]:
        c, x = self.config, pin_rows(x)
        h = LayerNorm(c.eps, name="norm1")(x)
        x = x + Attention(c, name="attention")(h, h)
        x = x + MLP(c.ffn, "gelu_tanh", dtype=c.dtype, name="mlp")(LayerNorm(c.eps, name="norm2")(x))
        return x, x if self.every_layer else None


class Stack(nn.Module):
    """All layers: one scan a span, with parameters stacked under ``span_<first>_<end>``."""

    config: TowerConfig

    @nn.compact
    def __call__(
        self, x: Sequence, first: int = 0, end: int | None = None, every_layer: bool = False
    ) -> tuple[Sequence, dict[str, Any]]:
        """Runs the spans from layer `first` to before layer `end`, both of which must be cuts (or the ends).

        Returns:
            The hidden states, and ``{"spans": {name: hidden states after it}}`` with, under `every_layer`,
            ``"layers"``: those after each layer, [layers run, B, S, D].
        """
        c = self.config
        spans = [span for span in c.spans if first <= span[0] and (end is None or span[1] <= end)]
        after, stacked = {}, []
        for start, stop in spans:
            x, layers = self._span(start, stop, every_layer)(x, None)
            after[f"span_{start}_{stop}"] = x
            stacked.append(layers)
        if not (every_layer and spans):
            return x, {"spans": after}
        return x, {"spans": after, "layers": jnp.concatenate(stacked)}

    def _span(self, start: int, stop: int, every_layer: bool) -> nn.Module:
        block = nn.remat(Block, prevent_cse=False) if self.config.remat else Block
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=stop - start,
            unroll=self.config.unroll,
        )
        return scanned(self.config, every_layer, name=f"span_{start}_{stop}")
