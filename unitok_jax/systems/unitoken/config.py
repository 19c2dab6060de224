"""The settings of a UniToken model: `config.model` of its recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.unitoken import vocabulary as vocabularies
from unitok_jax.systems.unitoken.layout import ImageShape
from unitok_jax.systems.unitoken.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class UniTokenConfig:
    """The parts of a UniToken model; the defaults of the parts are those of the released checkpoints.

    Attributes:
        lm: the Chameleon decoder.
        vit: the SigLIP tower.
        vqgan: the discrete tokenizer.
        text: SigLIP's text tower, where the tower is trained on captions; None elsewhere.
        image_size: side of the crop that the VQGAN reads and writes, in pixels.
        vocabulary: path of the tokenizer JSON; None is the small bundled one.
    """

    lm: DecoderConfig
    vit: SiglipConfig
    vqgan: VAEConfig
    text: SiglipTextConfig | None = None
    image_size: int = 512
    vocabulary: str | None = None

    @property
    def shape(self) -> ImageShape:
        """How an image stands in a row."""
        side = self.image_size // self.vqgan.factor
        return ImageShape(side, side, (self.vit.image_size // self.vit.patch_size) ** 2)


def read(values: Mapping[str, Any]) -> tuple[UniTokenConfig, Vocabulary]:
    """Reads `config.model` and loads its vocabulary.

    Raises:
        UserError: for an unknown key, or parts that do not fit each other.
    """
    config = from_config(UniTokenConfig, values, "config.model")
    vocabulary = vocabularies.load(config.vocabulary)
    unit = 2 * config.vqgan.factor
    if config.image_size % unit:
        raise UserError(f"config.model.image_size: {config.image_size} is not a multiple of {unit}, the grid unit")
    if config.vqgan.codebook_size != vocabulary.ids.codes:
        raise UserError(
            f"config.model.vqgan.codebook_size: {config.vqgan.codebook_size}, but the vocabulary has "
            f"{vocabulary.ids.codes} image codes; they must agree"
        )
    if config.lm.vocab_size < vocabulary.size:
        raise UserError(
            f"config.model.lm.vocab_size: {config.lm.vocab_size} is less than the vocabulary's {vocabulary.size} ids"
        )
    return config, vocabulary
