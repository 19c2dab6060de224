"""The settings of a Tar model: `config.model` of its recipes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from unitok_jax.backbones.ar_image import ARImageConfig
from unitok_jax.backbones.dc_ae import DCAEConfig
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.sana import SanaConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.tar import vocabulary as vocabularies
from unitok_jax.systems.tar.ar_detokenizer import ARDrawing
from unitok_jax.systems.tar.layout import PictureShape
from unitok_jax.systems.tar.sana_detokenizer import SanaDrawing
from unitok_jax.systems.tar.ta_tok import TATokConfig
from unitok_jax.systems.tar.vocabulary import Vocabulary

DETOKENIZERS = {"ar": ("ar", "vq"), "sana": ("sana", "vae", "negative")}  # each with its parts


@dataclasses.dataclass(frozen=True)
class TarConfig:
    """The parts of a Tar model; the defaults of the parts are those of the released checkpoints.

    Attributes:
        lm: the Qwen2.5 decoder, its vocabulary extended; None where only the tokenizer side is trained.
        ta_tok: the text-aligned tokenizer.
        text: the text tower that a teacher is trained against, where there is no released one; None elsewhere.
        ar, vq: the autoregressive de-tokenizer and the VQ-VAE whose codes it writes; both or neither.
        sana, vae: the diffusion de-tokenizer's transformer and autoencoder; both or neither.
        sana_size: side of the pictures that the diffusion de-tokenizer draws, in pixels.
        detokenizer: which one draws, ``ar`` or ``sana``; by default the one that there is.
        vocabulary: path of the tokenizer JSON; None is the small bundled one.
        scales: pool scales that the vocabulary knows.
        scale: of pictures that are drawn: 1 is the finest.
        read_scale: of pictures that are read.
        constrain: drawn pictures are made of codes alone; the release draws from the whole vocabulary.
        penalty: on repeated ids of text; Qwen2.5-Instruct's own settings have 1.1 (1.5B) and 1.05 (7B).
        drawing: how the autoregressive de-tokenizer draws.
        solving: how the diffusion de-tokenizer draws.
        seed: of the de-tokenizers' noise, together with the codes that they draw: equal codes give equal pictures.
        reflection: how the model is asked whether a picture of its own shows ``{caption}``. How the release words it
            is not public.
    """

    lm: DecoderConfig | None = None
    ta_tok: TATokConfig = dataclasses.field(default_factory=TATokConfig)
    text: SiglipTextConfig | None = None
    ar: ARImageConfig | None = None
    vq: VAEConfig | None = None
    sana: SanaConfig | None = None
    vae: DCAEConfig | None = None
    sana_size: int = 512
    detokenizer: str | None = None
    vocabulary: str | None = None
    scales: tuple[int, ...] = (1, 2, 3)
    scale: int = 1
    read_scale: int = 1
    constrain: bool = False
    penalty: float = 1.0
    drawing: ARDrawing = dataclasses.field(default_factory=ARDrawing)
    solving: SanaDrawing = dataclasses.field(default_factory=SanaDrawing)
    seed: int = 0
    reflection: str = 'Does this image match the prompt "{caption}"? Answer yes or no.'

    @property
    def vit(self) -> SiglipConfig:
        """The teacher: a tower as the tokenizer's own."""
        return self.ta_tok.tower

    @property
    def shape(self) -> PictureShape:
        """How a picture's codes lie in a row."""
        return PictureShape(self.scales, tuple(self.ta_tok.tokens(scale) for scale in self.scales))

    @property
    def ar_side(self) -> int:
        """Side of the pictures that the autoregressive de-tokenizer draws, in pixels."""
        if self.ar is None or self.vq is None:
            raise UserError("config.model.ar: missing; this needs the autoregressive de-tokenizer and its VQ-VAE")
        return math.isqrt(self.ar.tokens) * self.vq.factor

    @property
    def sides(self) -> dict[str, int]:
        """The de-tokenizers that there are, and the side of the pictures that each draws."""
        found = {"ar": self.ar_side} if self.ar else {}
        return found | ({"sana": self.sana_size} if self.sana else {})

    @property
    def drawn_by(self) -> str | None:
        """The de-tokenizer that draws, or None without any."""
        return self.detokenizer or next(iter(self.sides), None)

    def with_detokenizer(
        self, name: str | None, resolution: int | None, scale: int | None = None, guidance: float | None = None
    ) -> "TarConfig":
        """The same model drawing with another of its de-tokenizers, at another pool scale, or with other guidance of
        the de-tokenizer.

        Raises:
            UserError: if it has no de-tokenizer of this name and resolution, or no such scale.
        """
        if scale is not None and scale not in self.scales:
            raise UserError(f"--scale {scale}: this model's pool scales are {', '.join(map(str, self.scales))}")
        fitting = [n for n, side in self.sides.items() if name in (None, n) and resolution in (None, side)]
        if not fitting:
            wanted = "".join(f" {word}" for word in (name, resolution and f"at {resolution}") if word)
            has = ", ".join(f"{n} at {side}" for n, side in self.sides.items()) or "none"
            raise UserError(f"no de-tokenizer{wanted}; this model has {has}")
        drawing, solving = self.drawing, self.solving
        if guidance is not None:
            drawing, solving = (dataclasses.replace(one, guidance=guidance) for one in (drawing, solving))
        drawn_by = self.detokenizer if self.detokenizer in fitting else fitting[0]
        chosen = {"detokenizer": drawn_by, "drawing": drawing, "solving": solving}
        return dataclasses.replace(self, scale=scale or self.scale, **chosen)


def read(values: Mapping[str, Any]) -> tuple[TarConfig, Vocabulary]:
    """Reads `config.model` and loads its vocabulary.

    Raises:
        UserError: for an unknown key, or parts that do not fit each other.
    """
    config = from_config(TarConfig, values, "config.model")
    vocabulary = vocabularies.load(config.vocabulary, config.ta_tok.codebook_size, len(config.scales))
    _check_scales(config)
    _check_detokenizers(config)
    if config.lm is not None and config.lm.vocab_size != vocabulary.size:
        raise UserError(
            f"config.model.lm.vocab_size: {config.lm.vocab_size}, but the text tokenizer, the tags, the scales and "
            f"the codes make {vocabulary.size} ids; they must agree"
        )
    return config, vocabulary


def _check_scales(config: TarConfig) -> None:
    grid = config.ta_tok.encoder.grid
    if config.scales != tuple(range(1, len(config.scales) + 1)) or len(config.scales) > grid:
        raise UserError(f"config.model.scales: {config.scales}; expected 1, 2, ... up to at most the grid of {grid}")
    for name in ("scale", "read_scale"):
        if getattr(config, name) not in config.scales:
            raise UserError(f"config.model.{name}: {getattr(config, name)} is none of the scales {config.scales}")


def _check_detokenizers(config: TarConfig) -> None:
    if config.ar is not None and config.vq is None:
        raise UserError("config.model.vq: missing; the autoregressive de-tokenizer writes its codes (config.model.ar)")
    if (config.sana is None) != (config.vae is None):
        raise UserError("config.model.sana and config.model.vae: one needs the other")
    if config.detokenizer is not None and config.detokenizer not in config.sides:
        raise UserError(f"config.model.detokenizer: {config.detokenizer!r}; this model has {list(config.sides)}")
    ar, vq, sana, vae = config.ar, config.vq, config.sana, config.vae
    width = config.ta_tok.decoder.width
    if ar is not None and vq is not None and ar.codes != vq.codebook_size:
        raise UserError(f"config.model.ar.codes: {ar.codes}, but the VQ-VAE has {vq.codebook_size}; they must agree")
    if ar is not None and math.isqrt(ar.tokens) ** 2 != ar.tokens:
        raise UserError(f"config.model.ar.tokens: {ar.tokens} is no square, a picture's rows times its columns")
    finest = config.ta_tok.tokens(1)
    if ar is not None and ar.condition_tokens < finest:
        raise UserError(
            f"config.model.ar.condition_tokens: {ar.condition_tokens}, but the tokenizer gives {finest} at scale 1; "
            "its table of positions must have room for them"
        )
    for name, channels in (("ar.condition", ar and ar.condition), ("sana.caption", sana and sana.caption)):
        if channels and channels != width:
            raise UserError(f"config.model.{name}: {channels}, but the tokenizer's decoder gives {width} channels")
    if sana is not None and vae is not None and config.sana_size % (vae.factor * sana.patch):
        raise UserError(
            f"config.model.sana_size: {config.sana_size} is not a multiple of {vae.factor * sana.patch} pixels"
        )
