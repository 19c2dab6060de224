"""The decoder-only language model of all four systems: Chameleon, Qwen2 / Qwen2.5 and Qwen3 by config."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num, PRNGKeyArray

from unitok_jax.backbones.decoder_block import Reading, Stack
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.kv_cache import KVCache, new_cache
from unitok_jax.layers.masks import self_mask
from unitok_jax.layers.norms import RMSNorm
from unitok_jax.layers.rope import rope_angles

MASKED = float(jnp.finfo(jnp.float32).min)  # the logit of ids that do not exist; finite, so guidance may subtract

SHARDING: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/embedding$", ("tensor", "fsdp")),
    (r"attention/[qkv]/kernel$", ("fsdp", "tensor", None)),
    (r"attention/[qkv]/bias$", ("tensor", None)),
    (r"attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"attention/[qk]_norm/(scale|bias)$", (None,)),
    (r"(attention|mlp|final)_norm/scale$", (None,)),
    (r"mlp/(gate|up)/kernel$", ("fsdp", "tensor")),
    (r"mlp/down/kernel$", ("tensor", "fsdp")),
    (r"head/kernel$", ("fsdp", "tensor")),
)


class WeightTable(nn.Module):
    """One weight matrix over the padded vocabulary, drawn with the standard deviation `std`."""

    name_of_leaf: str
    shape: tuple[int, int]
    std: float = 0.02

    @nn.compact
    def __call__(self) -> Float[jax.Array, "rows columns"]:
        return self.param(self.name_of_leaf, nn.initializers.normal(self.std), self.shape)


class DecoderLM(nn.Module):
    """Embedding table, layers, final norm and head; the parts are methods.

    Parameter paths: ``embed/embedding`` [Vpad, D]; ``layers/span_<i>_<j>/...`` stacked over the span's layers;
    ``final_norm/scale``; ``head/kernel`` [D, Vpad] unless tied.
    """

    config: DecoderConfig

    def setup(self):
        config = self.config
        self.embed = WeightTable("embedding", (config.padded_vocab, config.width))
        self.layers = Stack(config)
        self.final_norm = RMSNorm(config.norm_eps)
        if not config.tied_embeddings:
            self.head = WeightTable("kernel", (config.width, config.padded_vocab))

    def embed_tokens(self, tokens: Int[jax.Array, "*B S"]) -> Float[jax.Array, "*B S D"]:
        """Table rows of ids, in the compute dtype."""
        return jnp.take(self.embed(), tokens, axis=0).astype(self.config.dtype)

    def __call__(
        self,
        embeds: Float[jax.Array, "B S D"],
        positions: Num[jax.Array, "#B S"] | None = None,
        segments: Int[jax.Array, "#B S"] | None = None,
        blocks: Int[jax.Array, "#B S"] | None = None,
        cache: KVCache | None = None,
        valid: Int[jax.Array, "B"] | None = None,
        deterministic: bool = True,
        packed: bool = True,
        longest_block: int | None = None,
    ) -> tuple[Float[jax.Array, "B S D"], dict[str, Any]]:
        """Reads a sequence, or the continuation of what `cache` holds.

        Args:
            embeds: what stands at the positions.
            positions: rotary positions; counted from 0, or from the cached length, by default.
            segments: examples of a packed row; 0 is padding. Not with a cache.
            blocks: equal ids >= 0 attend both ways; -1 is causal.
            cache: keys and values of what was read before; the new ones are written at each row's length.
            valid: how many of the new positions count, by row (the rest is right padding); all by default.
            deterministic: False applies dropout, from the ``dropout`` key given to `apply`.
            packed: False promises one example a row, which lets more attention kernels serve; not with a cache.
            longest_block: the most positions of a block, so that attention looks no farther; not with a cache.

        Returns:
            Hidden states after the final norm, and ``{"spans": {name: hidden after it}, "cache": KVCache | None}``.

        Raises:
            ValueError: for segments together with a cache.
        """
        if cache is not None and segments is not None:
            raise ValueError("a row of a cache is one example: give either a cache or segments")
        length = embeds.shape[1]
        if cache is None:
            index, mask = None, self_mask(segments, blocks, packed=packed, longest_block=longest_block)
            positions = jnp.arange(length)[None] if positions is None else positions
        else:
            index, mask = cache.indices(length), cache.mask(length, blocks)
            positions = index if positions is None else positions
        angles = rope_angles(positions, self.config.head_dim, self.config.rope_theta)
        reading = Reading(jnp.cos(angles), jnp.sin(angles), mask, index)
        memories = None if cache is None else tuple(zip(cache.keys, cache.values, strict=True))
        after, memories = self.layers(embeds.astype(self.config.dtype), reading, memories, deterministic)
        if cache is not None and memories is not None:
            keys, values = zip(*memories, strict=True)
            cache = KVCache(keys, values, cache.lengths + (length if valid is None else valid))
        return self.final_norm(list(after.values())[-1]), {"spans": after, "cache": cache}

    def logits(self, hidden: Float[jax.Array, "*B D"]) -> Float[jax.Array, "*B Vpad"]:
        """Float32 logits; those of the padding beyond `vocab_size` are `MASKED`."""
        kernel = self.embed().T if self.config.tied_embeddings else self.head()
        logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
        return jnp.where(jnp.arange(self.config.padded_vocab) < self.config.vocab_size, logits, MASKED)

    def predict(self, tokens: Int[jax.Array, "B S"], **reading) -> Float[jax.Array, "B S Vpad"]:
        """From ids to logits; `reading` as in `__call__`."""
        return self.logits(self(self.embed_tokens(tokens), **reading)[0])


def init_decoder(config: DecoderConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters, float32."""
    return DecoderLM(config).init(key, jnp.zeros((1, 1), jnp.int32), method=DecoderLM.predict)["params"]


def head_kernel(config: DecoderConfig, params: dict[str, Any]) -> Float[jax.Array, "D Vpad"]:
    """The head's matrix out of the decoder's parameters, for losses that never make all logits."""
    return params["embed"]["embedding"].T if config.tied_embeddings else params["head"]["kernel"]


def decoder_cache(config: DecoderConfig, rows: int, length: int, dtype=None) -> KVCache:
    """An empty cache for `rows` rows of at most `length` positions, in the compute dtype by default."""
    layers = tuple(end - first for first, end in config.spans)
    return new_cache(layers, rows, length, config.kv_heads, config.head_dim, dtype or config.dtype)
