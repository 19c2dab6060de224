"""One layer of a decoder, and a span of equal layers as one scan."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.kv_cache import write_layer
from unitok_jax.layers.attention import attention
from unitok_jax.layers.compiled_for import current_platform
from unitok_jax.layers.masks import AttentionMask
from unitok_jax.layers.matrices import product_of_matrices
from unitok_jax.layers.mlp import GatedMLP
from unitok_jax.layers.norms import HeadLayerNorm, RMSNorm
from unitok_jax.layers.rope import rotate
from unitok_jax.parallel.mesh import pin_rows

Memory = tuple[jax.Array, jax.Array]  # a span's cached keys and values, each [L, R, K, T, H]
Params = dict[str, Any]

STACKED = re.compile(r"(^|/)layers/span_\d+_\d+/")  # parameters of a `Stack`


class Reading(struct.PyTreeNode):
    """What all layers share in one pass.

    Attributes:
        cos, sin: float32 [B, S, H/2], of the rotary angles.
        mask: which position reads which.
        index: int32 [B, S], where new keys go in the cache; None without one.
    """

    cos: Float[jax.Array, "#B S half"]
    sin: Float[jax.Array, "#B S half"]
    mask: AttentionMask
    index: Int[jax.Array, "B S"] | None = None


_projection = functools.partial(nn.DenseGeneral, dot_general=product_of_matrices)


class Attention(nn.Module):
    """Self-attention with grouped heads, optional q/k norms before the rotation, and an optional cache."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B S D"], reading: Reading, memory: Memory | None, layer: Int[jax.Array, ""]
    ) -> tuple[Float[jax.Array, "B S D"], Memory | None]:
        config = self.config
        q = self._heads(config.heads, "q")(x)
        k, v = (self._heads(config.kv_heads, name)(x) for name in ("k", "v"))
        if config.qk_norm is not None:
            q, k = self._norm("q_norm")(q), self._norm("k_norm")(k)
        q, k = (rotate(part, reading.cos, reading.sin, config.rope_layout) for part in (q, k))
        if memory is not None and reading.index is not None:
            keys, values = (write_layer(m, new, layer, reading.index) for m, new in zip(memory, (k, v), strict=True))
            memory, k, v = (keys, values), *(m[layer].swapaxes(1, 2).astype(q.dtype) for m in (keys, values))
        read = attention(q, k, v, reading.mask)
        out = _projection(config.width, axis=(-2, -1), use_bias=False, dtype=config.dtype, name="out")(read)
        return out, memory

    def _heads(self, heads: int, name: str) -> nn.Module:
        shape = (heads, self.config.head_dim)
        return _projection(shape, use_bias=self.config.qkv_bias, dtype=self.config.dtype, name=name)

    def _norm(self, name: str) -> nn.Module:
        if self.config.qk_norm == "layernorm":
            return HeadLayerNorm(self.config.qk_norm_groups, self.config.norm_eps, name=name)
        return RMSNorm(self.config.norm_eps, name=name)


class Block(nn.Module):
    """Attention and feed-forward, each with a norm before it, or, with `swin_norm`, on what it adds.

    Scanned: the carry is the hidden states and the span's memory, the scanned input the layer's number.
    """

    config: DecoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, carry: tuple[Float[jax.Array, "B S D"], Memory | None], layer: Int[jax.Array, ""], reading: Reading
    ) -> tuple[tuple[Float[jax.Array, "B S D"], Memory | None], None]:
        config = self.config
        x, memory = carry
        if memory is None:  # a decode pins what it reads, see `inference.decode`
            x = pin_rows(x)
        norms = [RMSNorm(config.norm_eps, name=name) for name in ("attention_norm", "mlp_norm")]
        before, after = [(lambda y: y)] * 2, norms
        if not config.swin_norm:
            before, after = after, before
        added, memory = Attention(config, name="attention")(before[0](x), reading, memory, layer)
        x = x + self._dropped(after[0](added))
        added = GatedMLP(config.ffn, dtype=config.dtype, name="mlp")(before[1](x))
        return (x + self._dropped(after[1](added)), memory), None

    def _dropped(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(x)


class Stack(nn.Module):
    """All layers: one scan a span, named ``span_<first>_<end>``."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B S D"], reading: Reading, memories: tuple[Memory, ...] | None, deterministic: bool
    ) -> tuple[dict[str, Float[jax.Array, "B S D"]], tuple[Memory, ...] | None]:
        """The hidden states after each span, by its name, and the new memories."""
        block = nn.remat(Block, prevent_cse=False) if self.config.remat and memories is None else Block
        after, kept = {}, []
        for number, (first, end) in enumerate(self.config.spans):
            name = f"span_{first}_{end}"
            whole = memories is not None and current_platform() == "cpu"  # see `layers_apart`
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=end - first,
                unroll=end - first if whole else self.config.unroll,
            )(self.config, deterministic, name=name)
            carry = x, None if memories is None else memories[number]
            (x, memory), _ = scanned(carry, jnp.arange(end - first), reading)
            after[name] = x
            kept.append(memory)
        return after, None if memories is None else tuple(kept)


def layers_apart(params: Params) -> Params:
    """On a CPU, each layer of a `Stack` in an array of its own, for a loop of decode steps; elsewhere, `params`.

    XLA copies a layer out of the stack whenever it multiplies with it, in a loop at every turn: it reads and writes
    three times what the product reads. Inside the loop `layers_stacked` makes the stacks that the model knows, which
    XLA, as the layers are not scanned there, takes for the arrays they were made of.
    """
    if current_platform() != "cpu":
        return params
    flat = flatten_dict(params, sep="/")
    return unflatten_dict({path: list(x) if STACKED.search(path) else x for path, x in flat.items()}, sep="/")


def layers_stacked(params: Params) -> Params:
    """The inverse of `layers_apart`."""
    return jax.tree.map(
        lambda x: jnp.stack(x) if isinstance(x, list) else x, params, is_leaf=lambda x: isinstance(x, list)
    )
