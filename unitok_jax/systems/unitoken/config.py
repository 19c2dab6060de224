"""The settings of a UniToken model: `config.model` of its recipes."""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.unitoken import vocabulary as vocabularies
from unitok_jax.systems.unitoken.anyres import AnyRes
from unitok_jax.systems.unitoken.images import Draws
from unitok_jax.systems.unitoken.layout import ImageShape
from unitok_jax.systems.unitoken.vocabulary import Vocabulary

RELEASED_SEED = 100  # of the released solver's item processor
RELEASED_PROMPT = "Generate an image according to the following prompt:\n{caption}"  # of a drawing
RELEASED_CANVASES = (
    (1, 2),
    (2, 1),
    (2, 2),
    (1, 3),
    (3, 1),
)  # (columns, rows) of tiles of 384 pixels, in order of preference


@dataclasses.dataclass(frozen=True)
class UniTokenConfig:
    """The parts of a UniToken model; the defaults of the parts are those of the released checkpoints.

    Attributes:
        lm: the Chameleon decoder.
        vit: the SigLIP tower.
        vqgan: the discrete tokenizer.
        text: SigLIP's text tower, where the tower is trained on captions; None elsewhere.
        image_size: side of the crop that the VQGAN reads and writes, in pixels.
        canvases: (columns, rows) of the tiles that an image may be cut into beside its overview, in the order of
            preference: the AnyRes variant. Empty is the base variant, which sees an image once.
        context: the most ids of a prompt (what SEP and features add apart), as released.
        prompt_crop: where the VQGAN's crop lies at inference: ``center``, or ``released``: at random from the seed
            of the released solver, so that it is the crop which that gives to the first image that it reads.
        vocabulary: path of the tokenizer JSON; None is the small bundled one.
    """

    lm: DecoderConfig
    vit: SiglipConfig
    vqgan: VAEConfig
    text: SiglipTextConfig | None = None
    image_size: int = 512
    canvases: tuple[tuple[int, int], ...] = ()
    context: int = 4096
    prompt_crop: str = "center"
    vocabulary: str | None = None

    def prompt_draws(self) -> Draws:
        """What crops an image of a prompt: a generator begun anew for each, or None for central crops."""
        return random.Random(RELEASED_SEED) if self.prompt_crop == "released" else None

    @property
    def shape(self) -> ImageShape:
        """How an image stands in a row."""
        side = self.image_size // self.vqgan.factor
        return ImageShape(side, side, self.vit.grid**2, self.anyres)

    @property
    def anyres(self) -> AnyRes | None:
        """How the AnyRes variant cuts an image; None in the base variant."""
        side = self.vit.image_size
        canvases = tuple((columns * side, rows * side) for columns, rows in self.canvases)
        return AnyRes(canvases, side, self.vit.grid) if canvases else None


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
    if any(min(canvas) < 1 for canvas in config.canvases):
        raise UserError(f"config.model.canvases: {config.canvases}; each is (columns, rows) of tiles, 1 or more")
    if config.prompt_crop not in ("center", "released"):
        raise UserError(f"config.model.prompt_crop: {config.prompt_crop!r}; expected center or released")
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
