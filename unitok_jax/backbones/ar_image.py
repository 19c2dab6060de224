"""An autoregressive picture model of LlamaGen's kind: codes of a VQ-VAE, one after the other, behind a condition.

Tar's autoregressive de-tokenizer (``tok/ar_dtok`` of its released code; arXiv 2506.18898, section 3.2) is LlamaGen's
transformer without rotary positions: a learned absolute table instead, and continuous vectors as the prefix. The
layers are the decoder's own, at rotary position 0, where the rotation changes nothing.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import decoder_lm
from unitok_jax.backbones.decoder_block import Reading, Stack
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.kv_cache import KVCache
from unitok_jax.errors import UserError
from unitok_jax.layers.masks import self_mask
from unitok_jax.layers.norms import RMSNorm
from unitok_jax.settings import near

Condition = Float[Array, "batch T C"]
Hidden = Float[Array, "batch S D"]

# name: (layers, heads, width), as registered in the released code; the paper's sizes are S, B and XL, the files' LP
SIZES = {
    "S": (12, 6, 384),
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "LP": (30, 20, 1280),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "XXXL": (48, 40, 2560),
}

SHARDING = (
    *(rule for rule in decoder_lm.SHARDING if not rule[0].startswith(("embed", "head"))),
    (r"\bembed/embedding$", ("tensor", "fsdp")),
    (r"\bhead/kernel$", ("fsdp", "tensor")),
    (r"\bcondition/kernel$", ("fsdp", "tensor")),
    (r"\bcondition/bias$", (None,)),
    (r"\bpositions$", (None, "fsdp")),
)


@dataclasses.dataclass(frozen=True)
class ARImageConfig:
    """A picture model; the defaults are those of the released 256-pixel de-tokenizer.

    Attributes:
        layers, heads, width: see `SIZES`.
        kv_heads: key and value heads; None is as many as `heads`.
        ffn: width of the feed-forward layers; None is two thirds of four times the width, rounded up to
            `multiple_of`.
        multiple_of: see `ffn`.
        codes: how many values a code takes.
        condition: channels of the condition's vectors.
        condition_tokens: the most vectors that the position table has room for.
        tokens: codes of a picture.
        fixed_positions: the position table holds sines and cosines and does not learn.
        dropout: rate on the embeddings and on what each branch adds, in training.
        norm_eps: of every norm.
        remat, unroll, dtype: see `DecoderConfig`.
    """

    layers: int = 30
    heads: int = 20
    width: int = 1280
    kv_heads: int | None = None
    ffn: int | None = None
    multiple_of: int = 256
    codes: int = 16384
    condition: int = 1152
    condition_tokens: int = 729
    tokens: int = 256
    fixed_positions: bool = False
    dropout: float = 0.1
    norm_eps: float = 1e-5
    remat: bool = False
    unroll: int = 1
    dtype: str = "float32"

    @property
    def positions(self) -> int:
        """Rows of the position table: the last code is never read."""
        return self.condition_tokens + self.tokens - 1

    @property
    def decoder(self) -> DecoderConfig:
        """The layers."""
        hidden = self.ffn or -(-(8 * self.width // 3) // self.multiple_of) * self.multiple_of
        return DecoderConfig(
            vocab_size=self.codes,
            width=self.width,
            ffn=hidden,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            head_dim=self.width // self.heads,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
        )


def sized(name: Literal["S", "B", "L", "LP", "XL", "XXL", "XXXL"] | str, **fields: Any) -> ARImageConfig:
    """The config of a registered size.

    Raises:
        UserError: for a size that is not registered.
    """
    if name not in SIZES:
        raise UserError(f"de-tokenizer: no size {name!r}.{near(name, SIZES)}")
    layers, heads, width = SIZES[name]
    values: dict[str, Any] = {"layers": layers, "heads": heads, "width": width, **fields}
    return ARImageConfig(**values)


class ARImage(nn.Module):
    """The picture model; its parts are methods.

    Parameters: ``condition/{kernel,bias}``, ``positions`` [T + N - 1, D], ``embed/embedding``,
    ``layers/span_0_<n>/...``, ``final_norm/scale``, ``head/kernel``.
    """

    config: ARImageConfig

    def setup(self) -> None:
        c, d = self.config, self.config.decoder
        self.condition = nn.Dense(c.width, dtype=c.dtype, kernel_init=nn.initializers.normal(0.02))
        init = nn.initializers.normal(0.02) if not c.fixed_positions else _sines
        self.positions = self.param("positions", init, (c.positions, c.width))
        self.embed = decoder_lm.WeightTable("embedding", (d.padded_vocab, c.width))
        self.layers = Stack(d)
        self.final_norm = RMSNorm(c.norm_eps)
        self.head = decoder_lm.WeightTable("kernel", (c.width, d.padded_vocab), 0.0)
        self.drop = nn.Dropout(c.dropout)

    def prefix(self, condition: Condition) -> Hidden:
        """The condition as the model reads it; that of zeros is what guidance compares with."""
        return self.condition(condition)

    def embed_codes(self, codes: Int[Array, "batch S"]) -> Hidden:
        """Table rows of codes."""
        return jnp.take(self.embed(), codes, axis=0).astype(self.config.dtype)

    def run(
        self, embeds: Hidden, cache: KVCache | None = None, deterministic: bool = True
    ) -> tuple[Hidden, dict[str, Any]]:
        """Reads embeddings from position 0 on, or from where `cache` ends: hidden states before the final norm.

        Returns:
            The states, and ``{"spans", "cache"}`` as of `DecoderLM`.
        """
        length, c = embeds.shape[1], self.config.decoder
        index = jnp.arange(length)[None] if cache is None else cache.indices(length)
        x = self.drop(embeds, deterministic=deterministic)
        x = x + jnp.take(self.positions, index, axis=0, mode="clip").astype(x.dtype)
        flat = jnp.zeros((1, length, c.head_dim // 2), jnp.float32)
        mask = self_mask() if cache is None else cache.mask(length)
        reading = Reading(flat + 1, flat, mask, None if cache is None else index)
        memories = None if cache is None else tuple(zip(cache.keys, cache.values, strict=True))
        after, memories = self.layers(x, reading, memories, deterministic)
        if cache is not None and memories is not None:
            keys, values = zip(*memories, strict=True)
            cache = KVCache(keys, values, cache.lengths + length)
        return list(after.values())[-1], {"spans": after, "cache": cache}

    def finish(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """The final norm."""
        return self.final_norm(hidden)

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch codes"]:
        """Float32 logits over the codes alone, of hidden states behind the final norm."""
        kernel = self.head()[:, : self.config.codes]
        return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def __call__(
        self, condition: Condition, codes: Int[Array, "batch N"], deterministic: bool = True
    ) -> tuple[Float[Array, "batch N D"], dict[str, Any]]:
        """Hidden states behind the final norm at the positions that predict `codes`.

        The input is the condition and all codes but the last; its last condition vector predicts the first code.
        """
        embeds = jnp.concatenate([self.prefix(condition), self.embed_codes(codes[:, :-1])], axis=1)
        hidden, aux = self.run(embeds, deterministic=deterministic)
        return self.finish(hidden)[:, condition.shape[1] - 1 :], aux

    def everything(self, condition: Condition, codes: Int[Array, "batch N"]) -> Float[Array, "batch N V"]:
        """Runs every part, so that `init` makes all parameters."""
        return self.logits(self(condition, codes)[0])


def _sines(key: Array, shape: tuple[int, int]) -> Float[Array, "positions D"]:
    """Sines, then cosines, of positions over powers of 10,000."""
    del key
    rates = 10000.0 ** (-np.arange(shape[1] // 2) / (shape[1] / 2))
    angles = np.arange(shape[0])[:, None] * rates
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1), jnp.float32)


def new_cache(config: ARImageConfig, rows: int, length: int) -> KVCache:
    """An empty cache for `rows` rows of at most `length` positions."""
    return decoder_lm.decoder_cache(config.decoder, rows, length)


def stretch_positions(
    table: Float[Array, "positions D"], condition_tokens: int, tokens: int
) -> Float[Array, "stretched D"]:
    """A position table for pictures of `tokens` codes out of one for fewer, for training from 256 to 512 pixels and on.

    Rows of the condition stay; those that predict the picture's codes, the condition's last one first, are resized as
    the square that they stand for (bilinear). How the release goes from one size to the next is not public; this is an
    assumption.

    Raises:
        UserError: unless both pictures are squares.
    """
    head, body = table[: condition_tokens - 1], table[condition_tokens - 1 :]
    old, new = (round(n**0.5) for n in (len(body), tokens))
    if old**2 != len(body) or new**2 != tokens:
        raise UserError(f"de-tokenizer: {len(body)} and {tokens} positions must be squares to be stretched")
    square = jax.image.resize(body.reshape(old, old, -1), (new, new, body.shape[-1]), "linear")
    return jnp.concatenate([head, square.reshape(tokens, -1)]).astype(table.dtype)


def init(config: ARImageConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters, float32."""
    condition = jnp.zeros((1, config.condition_tokens, config.condition))
    codes = jnp.zeros((1, config.tokens), jnp.int32)
    return ARImage(config).init(key, condition, codes, method="everything")["params"]
