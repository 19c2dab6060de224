"""The text tower of SigLIP (arXiv 2303.15343) and SigLIP2, with the scale and bias of their loss."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from unitok_jax.backbones import siglip_block
from unitok_jax.backbones.siglip_block import Sequence, Stack, TowerConfig
from unitok_jax.layers.norms import LayerNorm

VOCABULARY_MULTIPLE = 256  # the token table is padded to a multiple of this

SHARDING = (
    *siglip_block.SHARDING,
    (r"\bembeddings/token/embedding$", ("tensor", "fsdp")),
    (r"\bhead/kernel$", ("fsdp", "tensor")),
    (r"\bhead/bias$", (None,)),
    (r"\blogit_(scale|bias)$", ()),
)


@dataclasses.dataclass(frozen=True)
class SiglipTextConfig(TowerConfig):
    """A text tower; the defaults are SO400M's (SigLIP2 has 256,000 ids).

    Attributes:
        vocab_size: number of ids.
        max_length: positions; every text is padded to them, because the last one is read whatever stands there.
        projection: width of the feature, that of the vision tower.
    """

    vocab_size: int = 32000
    max_length: int = 64
    projection: int = 1152

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table in memory."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


class TextEmbeddings(nn.Module):
    """Token and position tables."""

    config: SiglipTextConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> Sequence:
        c = self.config
        init = nn.initializers.normal(c.width**-0.5)
        x = nn.Embed(c.padded_vocab, c.width, dtype=c.dtype, embedding_init=init, name="token")(tokens)
        positions = nn.Embed(c.max_length, c.width, dtype=c.dtype, embedding_init=init, name="position")
        return x + positions(jnp.arange(tokens.shape[1]))


class SiglipText(nn.Module):
    """Every token reads every other, padding too; the last position, projected, is the text's feature."""

    config: SiglipTextConfig

    def setup(self) -> None:
        c = self.config
        self.embeddings = TextEmbeddings(c)
        self.layers = Stack(c)
        self.final_norm = LayerNorm(c.eps)
        self.head = nn.Dense(c.projection, dtype=c.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(10.0)), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, tokens: Int[Array, "batch length"]) -> tuple[Float[Array, "batch projection"], dict[str, Any]]:
        """Features, [B, projection], of texts padded to `max_length`, and ``{"embeddings", "spans", "hidden"}``."""
        embedded = self.embeddings(tokens)
        x, aux = self.layers(embedded)
        x = self.final_norm(x)
        return self.head(x[:, -1]), {"embeddings": embedded, "hidden": x, **aux}
