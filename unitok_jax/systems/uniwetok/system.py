"""UniWeTok: pictures as 128 bits a token, and a language model that draws the bits by diffusion, several at once.

Source: arXiv 2602.14178 and the code that it shares with BitDance (arXiv 2602.14041); what is released and what is
ours: ``docs/systems/uniwetok.md``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import binary_vae, bitdance, decoder_lm, flow_head
from unitok_jax.backbones.binary_vae import BinaryVAE
from unitok_jax.backbones.bitdance import to_codes
from unitok_jax.backbones.bitdance_sampling import Plan, generate, noise_from_keys
from unitok_jax.backbones.decoder_lm import DecoderLM
from unitok_jax.backbones.flow_head import FlowHead
from unitok_jax.backbones.kv_cache import KVCache
from unitok_jax.data.example import BadExample, Example, Task
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.parallel.rules import under
from unitok_jax.quantizers import binary
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import (
    Batch,
    Blocks,
    Embeds,
    Emission,
    Hidden,
    Ids,
    ImageCodes,
    Params,
    Stage,
    Valid,
    VisualTokens,
)
from unitok_jax.systems.codes import stacked
from unitok_jax.systems.decoder_reading import DecoderReading
from unitok_jax.systems.pixels import merge_images
from unitok_jax.systems.uniwetok import decoding, lm, stage_c2i, stage_lm, stage_tokenizer, weights
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.images import cover, to_bytes
from unitok_jax.systems.uniwetok.layout import Layout
from unitok_jax.systems.uniwetok.vocabulary import Vocabulary

DECODER = 1 << 20  # tells the decoder's draws from those of the generator's steps
NOISE_SEED = 0  # of the generative decoder's noise where no key is at hand: pictures repeat themselves


class UniWeTok(DecoderReading):
    """The system; see `systems.base.System` for what each method promises.

    Parts of its parameters: ``vae``, ``generator``, ``lm``, ``projector``, ``flow``, and in the tokenizer's stage
    ``teacher``, ``pools``, ``prior``, ``discriminator``, ``vgg``, ``lpips``.
    """

    sharding = (
        *under("vae", binary_vae.SHARDING),
        *under("lm", decoder_lm.SHARDING),
        *under("flow", flow_head.SHARDING),
        *bitdance.sharding("generator"),
        *stage_tokenizer.SHARDING,
        (r"^projector/fc1/kernel$", (None, "fsdp")),
        (r"^projector/fc2/kernel$", ("fsdp", "tensor")),
        (r"^projector/fc[12]/bias$", (None,)),
    )

    def __init__(self, config: UniWeTokConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary
        self.layout = Layout(config, vocabulary)
        self.longest_block = config.parallel_num
        self.codebook_size = 1 << config.vae.bits
        self.modules: dict[str, nn.Module] = {
            "vae": BinaryVAE(config.vae),
            "flow": FlowHead(config.flow, config.vae.z_channels),
        }
        if config.lm is not None:
            self.modules |= {"lm": DecoderLM(config.lm), "projector": lm.projector(config)}
        self.artefacts = weights.artefacts(config)
        self.stages: Mapping[str, Callable[[Mapping[str, Any]], Stage]] = {
            "tokenizer": functools.partial(stage_tokenizer.build, self),
            "c2i": functools.partial(stage_c2i.build, self),
            "lm": functools.partial(stage_lm.build, self),
        }

    def init(self, key: PRNGKeyArray, parts: tuple[str, ...]) -> Params:
        """Random parameters of some parts; a part's numbers do not depend on which others are asked for."""
        c = self.config
        bits, parallel = c.vae.z_channels, c.parallel_num
        makers: dict[str, Callable[[jax.Array], Any]] = {
            "vae": lambda k: self._init_vae(k),
            "generator": lambda k: bitdance.init_bitdance(c.generator, k),
            "lm": lambda k: decoder_lm.init_decoder(c.lm, k),
            "projector": lambda k: self.modules["projector"].init(k, jnp.zeros((1, bits)))["params"],
            "flow": lambda k: self.modules["flow"].init(
                k, jnp.zeros((1, parallel, bits)), jnp.zeros(1), jnp.zeros((1, parallel, c.lm.width))
            )["params"],
        }
        keys = {part: jax.random.fold_in(key, i) for i, part in enumerate(makers)}
        return {part: makers[part](keys[part]) for part in parts}

    def _init_vae(self, key: jax.Array) -> Any:
        c = self.config.vae
        noise = jnp.zeros((1, 2, 2, c.z_channels)) if c.generative else None
        return self.modules["vae"].init(key, jnp.zeros((1, 2 * c.factor, 2 * c.factor, 3)), noise)["params"]

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs one part on its own parameters."""
        return applied(self.modules[part], params[part], *args, **kwargs)

    # Tokenizer

    to_uint8 = staticmethod(to_bytes)

    def encode_image(self, params: Params, pixels: Mapping[str, jax.Array]) -> VisualTokens:
        """Group codes, [batch, images, n, groups], of the ``image`` view, row after row."""
        pictures, slots = merge_images(pixels["image"])
        features, _ = self.apply(params, "vae", pictures, method="encode")
        codes = binary.to_indices(features, self.config.vae.bit_groups)
        return VisualTokens(codes.reshape(*slots, -1, codes.shape[-1]), None, features.shape[1:3])

    def decode_image(
        self, params: Params, codes: Int[Array, "batch h w groups"], keys: Keys | None = None
    ) -> Float[Array, "batch H W 3"]:
        """Pictures from group codes; the decoder's noise comes from `keys`, one a picture, or is the same for all."""
        signs = binary.from_indices(codes, self.config.vae.z_channels)
        if keys is None:
            keys = jax.vmap(lambda _: jax.random.key(NOISE_SEED))(jnp.arange(len(codes)))
        noise = binary_vae.draw_noise(self.config.vae, signs, keys)
        return self.apply(params, "vae", signs, noise, method="decode")[0]

    def views(self, image: Picture, rng: np.random.Generator | None = None) -> dict[str, list[Picture]]:
        return {"image": [cover(image, *self.size_of(image), rng)]}

    def size_of(self, image: Picture) -> tuple[int, int]:
        """The listed (height, width) whose shape is nearest to the picture's."""
        shape = np.log(image.shape[0] / image.shape[1])
        return min(self.config.all_sizes, key=lambda size: abs(np.log(size[0] / size[1]) - shape))

    def sizes_of(self, example: Example, native: bool) -> list[tuple[int, int]]:
        """What the pictures of an example are brought to.

        Args:
            example: where it comes with codes, these say their sizes.
            native: whether its pictures take the listed size nearest to their shape; else the default one, which is
                what a training batch has room for.

        Raises:
            BadExample: for codes that are none of a listed size.
        """
        if example.codes is None:
            return [self.size_of(image) if native else self.config.all_sizes[0] for image in example.images]
        return [self._coded_size(example, i, codes) for i, codes in enumerate(example.codes)]

    def _coded_size(self, example: Example, index: int, codes: np.ndarray) -> tuple[int, int]:
        count, *groups = np.shape(codes)
        if groups != [self.config.vae.bit_groups]:
            detail = f"{example.id}: codes {(count, *groups)}, expected {self.config.vae.bit_groups} a token"
            raise BadExample("no precomputed codes", detail)
        fitting = [size for size in self.config.all_sizes if self.config.outputs(*size) == count]
        told, factor = f"{example.id}: {count} tokens", self.config.vae.factor
        if example.grids is not None:
            rows, columns = example.grids[index]
            fitting = [size for size in fitting if tuple(size) == (rows * factor, columns * factor)]
            told += f" on {rows} x {columns}"
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            told += f" may be {' or '.join(f'{h} x {w}' for h, w in fitting)} pixels: the record needs grids"
        raise BadExample("no precomputed codes", told if fitting else f"{told}, which no listed size has")

    def place_images(
        self, example: Example, row: ExampleRow, sizes: list[tuple[int, int]], rng: np.random.Generator | None
    ) -> ExampleRow:
        """Adds the pictures that a row's slots point at, or their codes, padded to the room of the largest size."""
        if example.codes is None:
            views = [cover(image, *size, rng) for image, size in zip(example.images, sizes, strict=True)]
            return dataclasses.replace(row, views={"image": views})
        room, groups = self.config.tokens, self.config.vae.bit_groups
        if not example.codes:
            return dataclasses.replace(row, codes=np.zeros((0, room, groups), np.int32))
        padded = tuple(np.pad(codes, ((0, room - len(codes)), (0, 0))) for codes in example.codes)
        codes = stacked(dataclasses.replace(example, codes=padded), (room, groups), self.codebook_size)
        return dataclasses.replace(row, codes=codes)

    def batch_codes(self, params: Params, batch: Batch) -> Float[Array, "batch images h w bits"]:
        """Signs of the batch's square pictures, encoded where they did not come with the data; no gradient."""
        side = self.config.image_size // self.config.vae.factor
        signs = self._signs(params, batch)[:, :, : side * side]
        return signs.reshape(*signs.shape[:2], side, side, -1)

    def row_tokens(
        self, params: Params, batch: Batch
    ) -> tuple[Float[Array, "batch images n bits"], Int[Array, "batch images"]]:
        """Signs of a row's pictures in patch-raster order, and each one's columns."""
        columns = batch["sizes"][..., 1] // self.config.vae.factor
        return lm.in_blocks(self._signs(params, batch), columns, self.config.side), columns

    def _signs(self, params: Params, batch: Batch) -> Float[Array, "batch images n bits"]:
        codes = batch["codes"] if "codes" in batch else self.encode_image(params, batch["pixels"]).coded
        room = self.config.tokens - codes.shape[2]
        codes = jnp.pad(jax.lax.stop_gradient(codes), ((0, 0), (0, 0), (0, max(room, 0)), (0, 0)))
        return binary.from_indices(codes, self.config.vae.z_channels)

    # Class-conditional generator

    def draw_classes(
        self,
        params: Params,
        labels: Int[Array, "batch"],
        keys: Keys,
        steps: int = 100,
        guidance: float = 1.0,
        schedule: str = "linear",
    ) -> Float[Array, "batch H W 3"]:
        """Pictures of classes, all steps in one program; what a sample becomes depends on its own key alone.

        Args:
            params: holds ``generator`` and ``vae``.
            labels: classes.
            keys: one a picture.
            steps: of the solver, for each token.
            guidance, schedule: see `bitdance_sampling.Plan`.

        Raises:
            UserError: for a model without a generator, or an unknown schedule.
        """
        generator, plan = self.config.generator, Plan(steps, guidance, schedule)
        if generator is None:
            raise UserError("config.model.generator: missing; only stage c2i trains a model that draws classes")
        tokens, _ = generate(generator, params["generator"], labels, noise_from_keys(generator, keys, plan), plan)
        signs = to_codes(generator, tokens, generator.grid)
        noise = binary_vae.draw_noise(self.config.vae, signs, jax.vmap(jax.random.fold_in, (0, None))(keys, DECODER))
        return self.apply(params, "vae", signs, noise, method="decode")[0]

    # Rows

    def prompt(self, example: Example) -> ExampleRow:
        sizes = self.sizes_of(example, native=True)
        row = self.layout.prompt(example, sizes, draw=example.task == Task.GENERATION)
        return self.place_images(example, row, sizes, rng=None)

    def unconditional(self, example: Example) -> ExampleRow:
        sizes = self.sizes_of(example, native=True)
        row = self.layout.unconditional(example, sizes, draw=True)
        return self.place_images(example, row, sizes, rng=None)

    def read(self, ids: Ids) -> tuple[str, list[ImageCodes]]:
        if ids.ndim == 2:
            return "", decoding.read_picture(self.config, ids)
        return self.vocabulary.decode([i for i in ids if i != self.vocabulary.ids.im_end]).strip(), []

    # Language model

    def embed(self, params: Params, batch: Batch) -> Embeds:
        """Table rows of the ids, projected tokens at the code positions."""
        embeds = self.apply(params, "lm", batch["tokens"], method="embed_tokens")
        if "codes" not in batch and "image" not in batch.get("pixels", {}):
            return embeds
        signs, columns = self.row_tokens(params, batch)
        return lm.place_tokens(self.config, params, embeds, batch, signs, columns)

    def advance(
        self, params: Params, embeds: Embeds, cache: KVCache, valid: Valid, blocks: Blocks = None
    ) -> tuple[Embeds, KVCache]:
        """Prompts are read by their rows' blocks; P positions that follow one are a block of their own."""
        count = embeds.shape[1]
        if blocks is None and count == self.config.parallel_num > 1:
            one = (cache.lengths > 0)[:, None] & (jnp.arange(count) < valid[:, None])
            blocks = jnp.where(one, 0, -1)
        hidden, aux = self.apply(params, "lm", embeds, blocks=blocks, cache=cache, valid=valid)
        return hidden, aux["cache"]

    def decode_init(self, params: Params, batch: Batch, settings: Decoding) -> Int[Array, ""]:
        """The state is the number of steps taken."""
        del params, batch
        if settings.grid is not None:
            decoding.check_grid(self.config, settings.grid)
        return jnp.zeros((), jnp.int32)

    def decode_step(
        self, params: Params, hidden: Hidden, state: Int[Array, ""], settings: Decoding, keys: Keys
    ) -> tuple[Emission, Int[Array, ""]]:
        def embed_ids(ids: jax.Array) -> jax.Array:
            return self.apply(params, "lm", ids, method="embed_tokens")

        ids = self.vocabulary.ids
        if settings.grid is not None:
            return decoding.picture_step(self.config, ids, params, embed_ids, hidden, state, settings, keys)
        logits = self.apply(params, "lm", hidden, method="logits")
        return decoding.text_step(logits, embed_ids, ids, settings, keys), state + 1
