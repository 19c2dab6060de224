"""Tar: pictures as words of a language model, and two de-tokenizers that draw them.

Source: arXiv 2506.18898 and its released code; what is released and what is ours: ``docs/systems/tar.md``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import ar_image, dc_ae, decoder_lm, sana, siglip, siglip_text, taming_vae
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.parallel.rules import under
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import tower_stage, vq_stage
from unitok_jax.systems.base import (
    Batch,
    Embeds,
    Emission,
    Hidden,
    Ids,
    ImageCodes,
    Params,
    Stage,
    Start,
    VisualTokens,
)
from unitok_jax.systems.codes import write_codes
from unitok_jax.systems.decoder_reading import DecoderReading
from unitok_jax.systems.pixels import merge_images
from unitok_jax.systems.tar import (
    ar_detokenizer,
    decoding,
    layout,
    pictures,
    sana_detokenizer,
    stage_ar,
    stage_lm,
    stage_sana,
    stage_ta_tok,
    stage_vq,
    start,
    weights,
)
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.ta_tok import TATok
from unitok_jax.systems.tar.vocabulary import Vocabulary

Codes = Int[Array, "batch n"]


class Negative(nn.Module):
    """The stored condition that guided diffusion compares with: ``embeds`` [T, C]; it begins as zeros."""

    tokens: int
    channels: int

    @nn.compact
    def __call__(self) -> Float[Array, "T C"]:
        return self.param("embeds", nn.initializers.zeros, (self.tokens, self.channels))


class Tar(DecoderReading):
    """The system; see `systems.base.System` for what each method promises.

    Parts of its parameters: ``lm``, ``ta_tok``; ``ar`` and ``vq``; ``sana``, ``vae`` and ``negative``; ``vit``, the
    teacher in TA-Tok's own stage; and ``text`` beside it where the teacher itself is trained.
    """

    sharding = (
        *under("lm", decoder_lm.SHARDING),
        *under("ta_tok/(?:encoder|decoder)", siglip.SHARDING),
        *under("vit", siglip.SHARDING),
        *under("text", siglip_text.SHARDING),
        *under("ar", ar_image.SHARDING),
        *under("vq", taming_vae.SHARDING),
        *under("sana", sana.SHARDING),
        *under("vae", dc_ae.SHARDING),
        (r"^ta_tok/(in_linear|out_linear|encode_task|decode_task_(in|out))/kernel$", ("fsdp", "tensor")),
        (r"^ta_tok/(in_linear|out_linear|encode_task|decode_task_(in|out))/bias$", (None,)),
        (r"^ta_tok/codebook/embedding$", (("fsdp", "tensor"), None)),
        (r"^ta_tok/codebook/kernel$", (None, None)),
        (r"^ta_tok/codebook/bias$", (None,)),
        (r"^ta_tok/normalise/(shift|scale)$", (None,)),
        (r"^negative/embeds$", (None, None)),
        *vq_stage.SHARDING,
    )

    def __init__(self, config: TarConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary
        self.codebook_size = config.ta_tok.codebook_size
        self.modules = _modules(config)
        sides = tuple(config.ta_tok.side(scale) for scale in config.scales)
        self.grammar = decoding.Grammar(vocabulary.ids, sides, config.scale, config.constrain, config.penalty)
        self.artefacts = weights.artefacts(config)
        self.stages: Mapping[str, Callable[[Mapping[str, Any]], Stage]] = {
            "tower": functools.partial(tower_stage.build, self, "ta_tok"),
            "ta_tok": functools.partial(stage_ta_tok.build, self),
            "vq": functools.partial(stage_vq.build, self),
            "ar": functools.partial(stage_ar.build, self),
            "sana": functools.partial(stage_sana.build, self),
            "lm": functools.partial(stage_lm.build, self),
        }

    @property
    def starts(self) -> Mapping[str, Callable[[Mapping[str, Any]], Start]]:
        """By name, how parts begin from others' weights: what `config.start` may say."""
        return start.starts(self)

    def need(self, *parts: str) -> None:
        """Sees to it that the model has some parts.

        Raises:
            UserError: naming the first one missing.
        """
        for part in parts:
            if part not in self.modules:
                raise UserError(f"config.model.{part}: missing; this stage needs it")

    def with_detokenizer(
        self, name: str | None, resolution: int | None, scale: int | None = None, guidance: float | None = None
    ) -> "Tar":
        """The same model drawing in another way; see `TarConfig.with_detokenizer`."""
        return Tar(self.config.with_detokenizer(name, resolution, scale, guidance), self.vocabulary)

    def init(self, key: PRNGKeyArray, parts: tuple[str, ...]) -> Params:
        """Random parameters of some parts; a part's numbers do not depend on which others are asked for."""
        made = {}
        for part in parts:
            own = jax.random.fold_in(key, list(_INPUTS).index(part))
            inputs, method = _INPUTS[part](getattr(self.config, part, None))
            made[part] = self.modules[part].init(own, *inputs, method=method)["params"]
        return made

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs one part on its own parameters."""
        return applied(self.modules[part], params[part], *args, **kwargs)

    # Tokenizer

    def encode_image(self, params: Params, pixels: Mapping[str, jax.Array]) -> VisualTokens:
        """Codes [batch, images, n] at all scales, one scale after the other, of the ``ta_tok`` view."""
        flat, slots = merge_images(pixels["ta_tok"])
        key = jax.random.key(self.config.seed) if self.config.ta_tok.draw else None
        codes = self.apply(params, "ta_tok", flat, self.config.scales, key, method="encode_scales")
        return VisualTokens(codes=codes.reshape(*slots, -1))

    def condition_of(
        self, params: Params, features: Float[Array, "batch n C"], scale: int
    ) -> Float[Array, "batch N D"]:
        """What the de-tokenizers read of a picture, from its tower's features."""

        def run(module: TATok) -> Array:
            return module.decode_codes(module.codebook.search(module.project(features, scale), None))

        return self.apply(params, "ta_tok", method=run)

    def pooled(self, params: Params, shown: Float[Array, "batch H W 3"]) -> Float[Array, "batch C"]:
        """What the teacher's pooling head says of pictures."""
        return self.apply(params, "vit", shown)[1]["pooled"]

    def pooled_text(self, params: Params, tokens: Int[Array, "batch length"]) -> Float[Array, "batch C"]:
        """What the text tower beside the teacher says of texts."""
        return self.apply(params, "text", tokens)[0]

    def text_tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "batch length"]:
        """Host side: ids for the text tower."""
        return tower_stage.padded(map(self.vocabulary.encode, texts), self.config.text, self.vocabulary.ids.end_of_text)

    def tower_picture(self, image: Picture) -> Picture:
        """Host side: what the teacher sees of an image."""
        return pictures.square(image, self.config.vit.image_size)

    def codebooks(self, codes: Int[np.ndarray, "batch n 1"]) -> dict[str, tuple[Int[np.ndarray, "batch n 1"], int]]:
        """Host side: the codes of each pool scale, and the codebook's entries, which all scales share."""
        spans = {f"scale_{scale}": self.config.shape.span(scale) for scale in self.config.scales}
        return {name: (codes[:, first : first + n], self.codebook_size) for name, (first, n) in spans.items()}

    def picture_codes(self, params: Params, shown: Float[Array, "batch H W 3"]) -> Codes:
        """The VQ-VAE's codes of pictures, along rows."""
        latents, _ = self.apply(params, "vq", shown, method="encode")
        return self.apply(params, "vq", latents, method="quantize").codes.reshape(len(shown), -1)

    def decode_image(self, params: Params, codes: Int[Array, "batch *grid"]) -> Float[Array, "batch H W 3"]:
        """Pictures from codes of one scale, or of all scales as `encode_image` gives them (the one to draw counts).

        Raises:
            UserError: without a de-tokenizer, or for a number of codes that no scale has.
        """
        drawn_by = self.config.drawn_by
        if drawn_by is None:
            raise UserError("config.model: has no de-tokenizer (ar with vq, or sana with vae); give one to draw with")
        codes = self._one_scale(codes.reshape(len(codes), -1))
        condition = self.apply(params, "ta_tok", codes, method="decode_codes")
        keys = _noise_keys(self.config.seed, codes)
        draw = self._draw_ar if drawn_by == "ar" else self._draw_sana
        return draw(params, condition, keys)

    def _one_scale(self, codes: Codes) -> Int[Array, "batch N"]:
        shape = self.config.shape
        if codes.shape[1] == shape.outputs:
            first, count = shape.span(self.config.scale)
            return codes[:, first : first + count]
        if codes.shape[1] not in shape.tokens:
            raise UserError(f"{codes.shape[1]} codes a picture; the scales {shape.scales} have {shape.tokens}")
        return codes

    def _draw_ar(self, params: Params, condition: Array, keys: Array) -> Array:
        config = self.config.ar
        drawn, _ = ar_detokenizer.draw_codes(config, params["ar"], condition, keys, self.config.drawing)
        side = math.isqrt(config.tokens)
        return self.apply(params, "vq", drawn.reshape(-1, side, side), method="decode_codes")[0]

    def _draw_sana(self, params: Params, condition: Array, keys: Array) -> Array:
        config, vae = self.config.sana, self.config.vae
        noise = sana_detokenizer.noise_for(config, keys, self.config.sana_size // vae.factor)
        negative = params["negative"]["embeds"]
        latents, _ = sana_detokenizer.draw_latents(
            config, params["sana"], condition, negative, noise, self.config.solving
        )
        return self.apply(params, "vae", latents / vae.scaling, method="decode")

    def views(self, image: Picture, rng: np.random.Generator | None = None) -> dict[str, list[Picture]]:
        del rng
        return {"ta_tok": [pictures.square(image, self.config.ta_tok.encoder.image_size)]}

    # Rows

    def prompt(self, example: Example) -> ExampleRow:
        draw = example.task == Task.GENERATION
        row = layout.prompt(example, self.vocabulary, self.config.shape, self.config.read_scale, draw=draw)
        return stage_lm.place_images(self, example, row)

    def unconditional(self, example: Example) -> ExampleRow:
        bare = [dataclasses.replace(turn, text="") for turn in example.turns]
        empty = dataclasses.replace(example, turns=tuple(bare), images=(), codes=None)
        return self.prompt(empty)

    def reflection(self, caption: str, codes: Int[np.ndarray, "rows columns"]) -> ExampleRow:
        """Host side: the row that asks whether a picture of one's own, at any pool scale, shows what it was to show."""
        shape = self.config.shape
        if codes.size not in shape.tokens:
            raise UserError(f"{codes.size} codes a picture; the scales {shape.scales} have {shape.tokens}")
        scale = shape.scales[shape.tokens.index(codes.size)]
        first, count = shape.span(scale)
        every = np.zeros(shape.outputs, np.int32)
        every[first : first + count] = codes.ravel()
        turn = Turn("user", f"{IMAGE}\n{self.config.reflection.replace('{caption}', caption)}")
        asked = Example("reflection", (turn,), (), Task.UNDERSTANDING, (every,))
        row = layout.prompt(asked, self.vocabulary, shape, scale, draw=False)
        return stage_lm.place_images(self, asked, row)

    @property
    def yes_no(self) -> tuple[int, int]:
        """The first ids of the answers yes and no."""
        yes, no = (self.vocabulary.encode(word)[0] for word in ("yes", "no"))
        return yes, no

    def read(self, ids: Ids) -> tuple[str, list[ImageCodes]]:
        text, images = decoding.read_ids(ids, self.grammar)
        return self.vocabulary.decode(text).strip(), images

    # Language model

    def embed(self, params: Params, batch: Batch) -> Embeds:
        """Table rows of the ids, those of codes included."""
        codes = batch.get("codes")
        if codes is None and batch.get("pixels"):
            codes = jax.lax.stop_gradient(self.encode_image(params, batch["pixels"]).codes)
        if codes is not None:
            batch = write_codes(batch, codes, self.vocabulary.ids.code_offset)
        return self.apply(params, "lm", batch["tokens"], method="embed_tokens")

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


def _modules(config: TarConfig) -> dict[str, nn.Module]:
    made: dict[str, nn.Module | None] = {
        "lm": decoder_lm.DecoderLM(config.lm) if config.lm else None,
        "ta_tok": TATok(config.ta_tok),
        "vit": siglip.SiglipVision(config.vit),
        "text": siglip_text.SiglipText(config.text) if config.text else None,
        "ar": ar_image.ARImage(config.ar) if config.ar else None,
        "vq": taming_vae.TamingVAE(config.vq) if config.vq else None,
        "sana": sana.Sana(config.sana) if config.sana else None,
        "vae": dc_ae.DCAE(config.vae) if config.vae else None,
        "negative": Negative(config.ta_tok.tokens(1), config.sana.caption) if config.sana else None,
    }
    return {name: module for name, module in made.items() if module is not None}


def _square(side: int) -> tuple[jax.Array]:
    return (jnp.zeros((1, side, side, 3)),)


# Of each part: what its `init` is called with, given its settings, and the method. Convolutions may be made on any size
# that divides.
_INPUTS: dict[str, Callable[[Any], tuple[tuple[jax.Array, ...], Any]]] = {
    "lm": lambda lm: ((jnp.zeros((1, 1), jnp.int32),), decoder_lm.DecoderLM.predict),
    "ta_tok": lambda ta_tok: (_square(ta_tok.encoder.image_size), TATok.everything),
    "vit": lambda vit: (_square(vit.image_size), None),
    "text": lambda text: ((jnp.zeros((1, text.max_length), jnp.int32),), None),
    "ar": lambda ar: (
        (jnp.zeros((1, 1, ar.condition)), jnp.zeros((1, 2), jnp.int32)),
        ar_image.ARImage.everything,
    ),
    "vq": lambda vq: (_square(2 * vq.factor), None),
    "sana": lambda sana: (
        (
            jnp.zeros((1, 2 * sana.patch, 2 * sana.patch, sana.channels)),
            jnp.zeros((1, 1, sana.caption)),
            jnp.zeros(1),
        ),
        None,
    ),
    "vae": lambda vae: (_square(2 * vae.factor), None),
    "negative": lambda negative: ((), None),
}


def _noise_keys(seed: int, codes: Codes) -> jax.Array:
    """One key a picture, from the seed and the picture's own codes: who else is in the batch does not matter."""
    weights = jnp.arange(1, codes.shape[1] + 1, dtype=jnp.uint32) * jnp.uint32(2654435761)
    sums = ((codes.astype(jnp.uint32) + 1) * weights).sum(1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), sums)
