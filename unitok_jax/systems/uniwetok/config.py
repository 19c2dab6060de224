"""The settings of a UniWeTok model: `config.model` of its recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unitok_jax.backbones.binary_vae import BinaryVAEConfig
from unitok_jax.backbones.bitdance import BitDanceConfig
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.uniwetok import vocabulary as vocabularies
from unitok_jax.systems.uniwetok.vocabulary import Vocabulary

# (height, width) of the pictures that the text-to-image models draw: those of 1024^2 pixels, then those of 512^2.
LARGE = (
    (1024, 1024), (2048, 512), (1920, 512), (1536, 640), (1280, 768), (1152, 896),
    (896, 1152), (768, 1280), (640, 1536), (512, 1920), (512, 2048),
)  # fmt: skip
SMALL = ((512, 512), (1024, 256), (896, 256), (640, 384), (384, 640), (256, 896), (256, 1024))
RELEASED_HEAD = FlowHeadConfig("transformer", 4096, 6, 2, head_dim=128, squash=True)


@dataclasses.dataclass(frozen=True)
class UniWeTokConfig:
    """The parts of a UniWeTok or BitDance model. What a stage does not use may be left out.

    Attributes:
        vae: the binary tokenizer.
        image_size: side of the square pictures that are read and drawn where no other size is asked for.
        sizes: (height, width) in pixels of the other pictures that may be read and drawn; a picture is brought to
            the listed size whose shape is nearest to its own.
        generator: the class-conditional model.
        lm: the language model (Qwen3).
        flow: the head that draws the LM's tokens; its kind is ``transformer``.
        parallel_num: tokens of a picture that the LM draws at once, P: a square number.
        vocabulary: path of the text tokenizer's JSON; None is a small one of our own.
    """

    vae: BinaryVAEConfig = dataclasses.field(default_factory=BinaryVAEConfig)
    image_size: int = 256
    sizes: tuple[tuple[int, int], ...] = ()
    generator: BitDanceConfig | None = None
    lm: DecoderConfig | None = None
    flow: FlowHeadConfig = RELEASED_HEAD
    parallel_num: int = 1
    vocabulary: str | None = None

    @property
    def decoder(self) -> DecoderConfig:
        """The language model's settings, for what needs one.

        Raises:
            UserError: if there is none.
        """
        if self.lm is None:
            raise UserError("config.model.lm: missing; this needs the language model")
        return self.lm

    @property
    def side(self) -> int:
        """Side of the square blocks of tokens that are drawn at once."""
        return round(self.parallel_num**0.5)

    @property
    def all_sizes(self) -> tuple[tuple[int, int], ...]:
        """Every (height, width) that may be read and drawn, the default first."""
        square = (self.image_size, self.image_size)
        return (square, *(size for size in self.sizes if tuple(size) != square))

    @property
    def tokens(self) -> int:
        """Tokens of the largest picture."""
        return max(self.outputs(*size) for size in self.all_sizes)

    def outputs(self, height: int, width: int) -> int:
        """Tokens of a picture; each is `vae.bit_groups` codes."""
        return height * width // self.vae.factor**2


def released_sizes(factor: int, parallel_num: int) -> tuple[tuple[int, int], ...]:
    """What a released text-to-image model draws; the one of 64 tokens at once, pictures of 1024^2 pixels alone.

    Args:
        factor: pixels a side of a token.
        parallel_num: tokens drawn at once, whose blocks must fill the picture.
    """
    unit = factor * round(parallel_num**0.5)
    listed = LARGE if parallel_num > 16 else LARGE + SMALL
    return tuple(size for size in listed if not any(side % unit for side in size))


def read(values: Mapping[str, Any]) -> tuple[UniWeTokConfig, Vocabulary]:
    """Reads `config.model` and loads its vocabulary.

    Raises:
        UserError: for an unknown key, or parts that do not fit each other.
    """
    config = from_config(UniWeTokConfig, values, "config.model")
    if config.side**2 != config.parallel_num:
        raise UserError(f"config.model.parallel_num: {config.parallel_num} is not a square; take 1, 4, 16 or 64")
    _check_sizes(config)
    _check_generator(config)
    vocabulary = vocabularies.load(config.vocabulary, config.vae.factor, config.parallel_num)
    if config.lm is None:
        return config, vocabulary
    if config.flow.kind != "transformer":
        raise UserError("config.model.flow.kind: the LM's head is a transformer, also where parallel_num is 1")
    if config.lm.width % 4:
        raise UserError(f"config.model.lm.width: {config.lm.width} is no multiple of 4, as positions on a plane need")
    if config.lm.vocab_size < vocabulary.size:
        raise UserError(
            f"config.model.lm.vocab_size: {config.lm.vocab_size} is less than the vocabulary's {vocabulary.size} ids "
            f"({vocabulary.size - vocabulary.ids.resolution} of them for resolutions and queries)"
        )
    return config, vocabulary


def _check_sizes(config: UniWeTokConfig) -> None:
    unit = config.vae.factor * config.side
    for height, width in config.all_sizes:
        if height % unit or width % unit:
            nearest = [max(1, round(side / unit)) * unit for side in (height, width)]
            raise UserError(
                f"config.model: pictures of {height} x {width} pixels do not divide into blocks of {unit} (tokens of "
                f"{config.vae.factor} pixels, {config.parallel_num} at once); nearest: {nearest[0]} x {nearest[1]}"
            )
        config.vae.check_size(height, width)


def _check_generator(config: UniWeTokConfig) -> None:
    generator, side = config.generator, config.image_size // config.vae.factor
    if generator is None:
        return
    wanted = config.vae.z_channels * generator.patch**2
    if generator.channels != wanted:
        raise UserError(f"config.model.generator.channels: {generator.channels}, but a token has {wanted} bits")
    grid = (side // generator.patch,) * 2
    if tuple(generator.grid) != grid:
        raise UserError(f"config.model.generator.grid: {generator.grid}, but pictures of image_size have {grid} tokens")
