"""UniToken: VQGAN codes and SigLIP features of one image, read and written by one Chameleon-style decoder.

Source: arXiv 2504.04423 and its released code; what is released and what is ours: ``docs/systems/unitoken.md``.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import decoder_lm, siglip, siglip_text, taming_vae
from unitok_jax.data.example import IMAGE, BadExample, Example, Task
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.parallel.rules import under
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import tower_stage, vq_stage
from unitok_jax.systems.base import Batch, Embeds, Emission, Hidden, Ids, ImageCodes, Params, Stage, VisualTokens
from unitok_jax.systems.codes import write_codes
from unitok_jax.systems.decoder_reading import DecoderReading
from unitok_jax.systems.pixels import merge_images
from unitok_jax.systems.unitoken import decoding, layout, stage_lm, stage_vqgan, weights
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.images import siglip_view, vqgan_view
from unitok_jax.systems.unitoken.vocabulary import Vocabulary

Features = Float[Array, "*batch C"]


class Adapter(nn.Module):
    """Two linear layers with an exact GELU between: the tower's width to the LM's (``adapter.0``, ``adapter.2``)."""

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "*batch D"]:
        dense = functools.partial(nn.Dense, self.width, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02))
        return dense(name="fc2")(nn.gelu(dense(name="fc1")(x), approximate=False))


class UniToken(DecoderReading):
    """The system; see `systems.base.System` for what each method promises.

    Parts of its parameters: ``lm``, ``vit``, ``adapter``, ``vqgan``; ``text`` in the tower's own stage, and in the
    VQGAN's ``vgg``, ``lpips`` (LPIPS's fixed networks) and ``discriminator``.
    """

    sharding = (
        *under("lm", decoder_lm.SHARDING),
        *under("vit", siglip.SHARDING),
        *under("text", siglip_text.SHARDING),
        *under("vqgan", taming_vae.SHARDING),
        *vq_stage.SHARDING,
        (r"^adapter/fc1/kernel$", ("fsdp", "tensor")),
        (r"^adapter/fc2/kernel$", ("tensor", "fsdp")),
        (r"^adapter/fc[12]/bias$", (None,)),
    )

    def __init__(self, config: UniTokenConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary
        self.codebook_size = config.vqgan.codebook_size
        self.modules: dict[str, nn.Module] = {
            "lm": decoder_lm.DecoderLM(config.lm),
            "vit": siglip.SiglipVision(config.vit),
            "adapter": Adapter(config.lm.width, config.lm.dtype),
            "vqgan": taming_vae.TamingVAE(config.vqgan),
        }
        if config.text is not None:
            self.modules["text"] = siglip_text.SiglipText(config.text)
        shape = config.shape
        self.grammar = decoding.Grammar(vocabulary.ids, vocabulary.size, (shape.rows, shape.columns))
        self.artefacts = weights.artefacts(config)
        self.stages: Mapping[str, Callable[[Mapping[str, Any]], Stage]] = {
            "vqgan": functools.partial(stage_vqgan.build, self),
            "tower": functools.partial(tower_stage.build, self, "siglip"),
            "lm": functools.partial(stage_lm.build, self),
        }

    def init(self, key: PRNGKeyArray, parts: tuple[str, ...]) -> Params:
        """Random parameters of some parts; a part's numbers do not depend on which others are asked for."""
        side, vit = self.config.image_size, self.config.vit
        inputs = {
            "lm": (jnp.zeros((1, 1), jnp.int32),),
            "vit": (jnp.zeros((1, vit.image_size, vit.image_size, 3)),),
            "adapter": (jnp.zeros((1, vit.width)),),
            "vqgan": (jnp.zeros((1, side, side, 3)),),
            "text": (jnp.zeros((1, self.config.text.max_length if self.config.text else 1), jnp.int32),),
        }
        methods = {"lm": decoder_lm.DecoderLM.predict}
        keys = {part: jax.random.fold_in(key, i) for i, part in enumerate(inputs)}
        return {
            part: self.modules[part].init(keys[part], *inputs[part], method=methods.get(part))["params"]
            for part in parts
        }

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs one part on its own parameters."""
        return applied(self.modules[part], params[part], *args, **kwargs)

    # Tokenizer

    def encode_image(self, params: Params, pixels: Mapping[str, jax.Array]) -> VisualTokens:
        """Codes of the ``vqgan`` view, adapted features of the ``siglip`` view; either view may be left out."""
        codes = features = grid = None
        if "vqgan" in pixels:
            pictures, slots = merge_images(pixels["vqgan"])
            latents, _ = self.apply(params, "vqgan", pictures, method="encode")
            codes = self.apply(params, "vqgan", latents, method="quantize").codes.reshape(*slots, -1)
            grid = latents.shape[1:3]
        if "siglip" in pixels:
            pictures, slots = merge_images(pixels["siglip"])
            features = self.apply(params, "adapter", self.apply(params, "vit", pictures)[0])
            features = features.reshape(*slots, *features.shape[1:])
        return VisualTokens(codes, features, grid)

    def decode_image(self, params: Params, codes: Int[Array, "batch rows columns"]) -> Float[Array, "batch H W 3"]:
        return self.apply(params, "vqgan", codes, method="decode_codes")[0]

    def views(self, image: Picture, rng: np.random.Generator | None = None) -> dict[str, list[Picture]]:
        side = self.config.image_size
        return {
            "vqgan": [vqgan_view(image, side, side, rng or self.config.prompt_draws())],
            "siglip": self.feature_views(image),
        }

    def feature_views(self, image: Picture) -> list[Picture]:
        """What the tower sees of an image: one picture, or under AnyRes an overview and its tiles."""
        anyres = self.config.anyres
        return anyres.pictures(image) if anyres else [siglip_view(image, self.config.vit.image_size)]

    def pooled(self, params: Params, pictures: Float[Array, "batch H W 3"]) -> Features:
        """What the tower's pooling head says of pictures, [batch, C]."""
        return self.apply(params, "vit", pictures)[1]["pooled"]

    def pooled_text(self, params: Params, tokens: Int[Array, "batch length"]) -> Features:
        """What the text tower says of texts, [batch, C]."""
        return self.apply(params, "text", tokens)[0]

    def text_tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "batch length"]:
        """Host side: ids for the text tower."""
        return tower_stage.padded(map(self.vocabulary.encode, texts), self.config.text, self.vocabulary.ids.pad)

    def tower_picture(self, image: Picture) -> Picture:
        """Host side: what the tower sees of an image as a whole."""
        return siglip_view(image, self.config.vit.image_size)

    # Rows

    def prompt(self, example: Example) -> ExampleRow:
        draw = example.task == Task.GENERATION
        try:
            row = layout.prompt(example, self.vocabulary, self.config.shape, draw, self.config.context)
            return stage_lm.place_images(self, example, row, answer_features=True, rng=self.config.prompt_draws())
        except BadExample as error:
            raise UserError(str(error)) from error

    def unconditional(self, example: Example) -> ExampleRow:
        return layout.image_start(self.vocabulary.ids, example)

    def read(self, ids: Ids) -> tuple[str, list[ImageCodes]]:
        said, images = decoding.read_ids(ids, self.vocabulary.ids)
        runs = itertools.groupby(said, lambda i: i == self.vocabulary.ids.image)
        words = (IMAGE * len(list(run)) if drawn else self.vocabulary.decode(list(run)) for drawn, run in runs)
        return "".join(words).strip(), images

    def forming(self, ids: Ids) -> ImageCodes | None:
        """Host side: the codes of an image under way; see `decoding.forming`."""
        return decoding.forming(ids, self.vocabulary.ids)

    # Language model

    def embed(self, params: Params, batch: Batch) -> Embeds:
        """Table rows of the ids, features at the feature positions.

        ``batch['blank']``, bool [R, S], if there, blanks positions: the pad id for a code, zeros for a feature.
        """
        pixels = batch.get("pixels", {})
        read = {view: x for view, x in pixels.items() if view != "vqgan" or "codes" not in batch}
        seen = self.encode_image(params, read)
        codes = batch.get("codes", seen.codes)
        if codes is not None:
            batch = write_codes(batch, jax.lax.stop_gradient(codes), self.vocabulary.ids.code_offset)
        blank = batch.get("blank")
        if blank is not None:
            hidden = blank & (batch["modality"] == Modality.CODE)
            batch = {**batch, "tokens": jnp.where(hidden, self.vocabulary.ids.pad, batch["tokens"])}
        embeds = self.apply(params, "lm", batch["tokens"], method="embed_tokens")
        if seen.features is None:
            return embeds
        flat = seen.features.reshape(len(embeds), -1, embeds.shape[-1]).astype(embeds.dtype)
        is_feature = batch["modality"] == Modality.FEATURE
        slots = jnp.where(is_feature, batch["slots"], 0)
        features = jnp.take_along_axis(flat, slots[..., None], axis=1)
        if blank is not None:
            features = jnp.where(blank[..., None], 0, features)
        return jnp.where(is_feature[..., None], features, embeds)

    def decode_init(self, params: Params, batch: Batch, settings: Decoding) -> decoding.DecodeState:
        del params
        return decoding.decode_init(self.grammar, batch, settings)

    def decode_step(
        self, params: Params, hidden: Hidden, state: decoding.DecodeState, settings: Decoding, keys: Keys
    ) -> tuple[Emission, decoding.DecodeState]:
        logits = self.apply(params, "lm", hidden, method="logits")

        def embed_ids(ids: jax.Array) -> jax.Array:
            return self.apply(params, "lm", ids[:, None], method="embed_tokens")

        return decoding.decode_step(self.grammar, logits, embed_ids, state, settings, keys)
