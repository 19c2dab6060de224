"""DualToken: the pixel and the semantic codes of one tower, read and written by one language model.

Source: arXiv 2503.14324 and the released tokenizer code; the language model is our design, which the paper's does not
fix. What is released and what is ours: ``docs/systems/dualtoken.md``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import attn_projection, decoder_lm, depth_head, pixel_decoder, siglip, siglip_text
from unitok_jax.data.example import Example
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.layers.mlp import MLP
from unitok_jax.parallel.rules import under
from unitok_jax.quantizers import residual
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import tower_stage, vq_stage
from unitok_jax.systems.base import Batch, Embeds, Emission, Hidden, Ids, ImageCodes, Params, Stage, VisualTokens
from unitok_jax.systems.decoder_reading import DecoderReading
from unitok_jax.systems.dualtoken import decoding, layout, stage_lm, stage_tokenizer, vocabulary, weights
from unitok_jax.systems.dualtoken.config import HEADS, DualTokenConfig
from unitok_jax.systems.dualtoken.images import view, whole_view
from unitok_jax.systems.dualtoken.stage_tokenizer import VIEW
from unitok_jax.systems.dualtoken.tokenizer import Tokenizer
from unitok_jax.systems.pixels import merge_images
from unitok_jax.systems.qwen_tokenizer import SPARE

Features = Float[Array, "batch channels"]
CODER = ("vit", "prequant", "codebooks", "postquant", "decoder")  # the tokenizer's parts


class DualToken(DecoderReading):
    """The system; see `systems.base.System` for what each method promises.

    Parts of its parameters: ``vit, prequant, codebooks, postquant, decoder`` (the tokenizer), ``text``; ``lm,
    projector, pixel_head, semantic_head``; in the tokenizer's training ``teacher, vgg, lpips, discriminator``.
    A picture's codes are [..., Q]: those of the pixel branch, then those of the semantic one.
    """

    sharding = (
        *under("vit", siglip.SHARDING),
        *under("teacher", siglip.SHARDING),
        *under("text", siglip_text.SHARDING),
        *under("prequant", attn_projection.SHARDING),
        *under("postquant", attn_projection.SHARDING),
        *under("codebooks", residual.SHARDING),
        *under("decoder", pixel_decoder.SHARDING),
        *vq_stage.SHARDING,
        *under("lm", decoder_lm.SHARDING),
        (r"^projector/fc\d/kernel$", ("fsdp", "tensor")),
        (r"^projector/fc\d/bias$", (None,)),
        *(rule for head in HEADS.values() for rule in under(head, depth_head.SHARDING)),
    )

    def __init__(self, config: DualTokenConfig):
        self.config, self.tokenizer = config, Tokenizer(config)
        self.vocabulary = vocabulary.load(config.vocabulary)
        self.coder_parts = CODER
        self.tokenizer_parts = (*CODER, "text") if config.text else CODER
        self.lm_parts = ("lm", "projector", *(HEADS[branch] for branch in config.branches))
        self.codebook_size = max(config.quantizer(branch).size for branch in config.branches)
        self.artefacts = weights.artefacts(config)
        self.stages: Mapping[str, Callable[[Mapping[str, Any]], Stage]] = {
            "tower": functools.partial(tower_stage.build, self, VIEW),
            "tokenizer": functools.partial(stage_tokenizer.build, self),
            "lm": functools.partial(stage_lm.build, self),
        }

    @property
    def template(self) -> layout.Template:
        """How rows are written."""
        rows, columns = self.config.grid
        return layout.Template(self.vocabulary, rows * columns, self.config.system_message)

    def check_lm(self) -> None:
        """Sees that there is a language model that fits the tokenizer and the vocabulary.

        Raises:
            UserError: naming the key that does not fit.
        """
        lm = self.config.lm
        if lm is None:
            raise UserError("config.model.lm: missing; this needs a language model")
        if not 0 <= lm.vocab_size - self.vocabulary.size <= SPARE:
            which = self.config.vocabulary or "the small bundled vocabulary"
            raise UserError(
                f"config.model.lm.vocab_size: {lm.vocab_size}, but {which} has {self.vocabulary.size} ids and a table "
                f"at most {SPARE} rows more; give config.model.vocabulary, the model's own tokenizer.json"
            )
        for branch in self.config.branches:
            if self.config.quantizer(branch).merge != (1, 1):
                raise UserError(f"config.model.{branch}.merge: the language model needs one position a feature, (1, 1)")

    def init(self, key: PRNGKeyArray, parts: Sequence[str]) -> Params:
        """Random parameters of some parts; a part's numbers do not depend on which others are asked for."""
        names = (*CODER, "teacher", "text", "lm", "projector", *HEADS.values())
        return {part: self._init_part(jax.random.fold_in(key, names.index(part)), part) for part in parts}

    def _init_part(self, key: jax.Array, part: str) -> Params:
        c = self.config
        if part == "text":
            assert c.text is not None
            words = jnp.zeros((1, c.text.max_length), jnp.int32)
            return siglip_text.SiglipText(c.text).init(key, words)["params"]
        if part in CODER or part == "teacher":
            return self.tokenizer.init(key, "vit" if part == "teacher" else part)
        self.check_lm()
        if part == "lm":
            return decoder_lm.init_decoder(c.lm, key)
        if part == "projector":
            return self._projector.init(key, jnp.zeros((1, self._visual_width)))["params"]
        branch = next(name for name, head in HEADS.items() if head == part)
        return depth_head.init_depth_head(c.depth_head(branch), key)

    @property
    def _visual_width(self) -> int:
        c = self.config
        post = c.visual_embed == "postquant"
        return sum(c.vit.width if post else c.quantizer(name).features for name in c.visual_streams)

    @property
    def _projector(self) -> MLP:
        lm = self.config.lm
        return MLP(lm.width, "gelu", out=lm.width, dtype=lm.dtype)

    def apply(self, params: Params, part: str, *args: Any, **kwargs: Any) -> Any:
        """Runs the language model or the text tower on its own parameters."""
        module = decoder_lm.DecoderLM(self.config.lm) if part == "lm" else siglip_text.SiglipText(self.config.text)
        return applied(module, params[part], *args, **kwargs)

    # Tokenizer

    def encode_image(self, params: Params, pixels: Mapping[str, jax.Array]) -> VisualTokens:
        """Codes of the ``tower`` view."""
        pictures, slots = merge_images(pixels[VIEW])
        encoded = self.tokenizer.encode(params, pictures)
        codes = self.tokenizer.join(encoded.quantized)
        rows, columns = codes.shape[1:3]
        return VisualTokens(codes.reshape(*slots, -1, codes.shape[-1]), None, (rows, columns))

    def decode_image(
        self, params: Params, codes: Int[Array, "batch rows columns depth"]
    ) -> Float[Array, "batch H W 3"]:
        """Pictures from the pixel codes; the semantic ones are not looked at."""
        latents = self.tokenizer.latents(params, "pix", self.tokenizer.split(codes)["pix"])
        return self.tokenizer.decode(params, latents)[0]

    def codebooks(self, codes: Int[np.ndarray, "batch n depth"]) -> dict[str, tuple[Int[np.ndarray, "batch n _"], int]]:
        """Host side: the codes of each codebook, and its entries; one of each depth where depths do not share it."""
        found, start = {}, 0
        for name in self.config.branches:
            config = self.config.quantizer(name)
            own = codes[..., start : start + config.depth]
            start += config.depth
            if config.shared:
                found[name] = own, config.size
            else:
                found |= {
                    f"{name}_{depth}": (own[..., depth : depth + 1], config.size) for depth in range(config.depth)
                }
        return found

    def views(self, image: Picture, rng: np.random.Generator | None = None) -> dict[str, list[Picture]]:
        return {VIEW: [view(image, self.config.vit.image_size, rng)]}

    def pooled(self, params: Params, pictures: Float[Array, "batch H W 3"]) -> Features:
        """What the tower by itself says of pictures, [batch, C]."""
        return applied(self.tokenizer.tower, params["vit"], pictures)[1]["pooled"]

    def pooled_codes(self, params: Params, pictures: Float[Array, "batch H W 3"]) -> Features:
        """What the tower says of pictures through the semantic codes, [batch, C]: the zero-shot feature."""
        return self.tokenizer.encode(params, pictures).pooled

    def pooled_text(self, params: Params, tokens: Int[Array, "batch length"]) -> Features:
        """What the text tower says of texts, [batch, C]."""
        return self.apply(params, "text", tokens)[0]

    def text_tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "batch length"]:
        """Host side: ids for the text tower, by its own tokenizer where the config names one."""
        pad = self.vocabulary.ids.pad if self.config.text_pad is None else self.config.text_pad
        return tower_stage.padded(map(self._words, texts), self.config.text, pad)

    def tower_picture(self, image: Picture) -> Picture:
        """Host side: what the tower sees of an image."""
        return whole_view(image, self.config.vit.image_size)

    def _words(self, text: str) -> list[int]:
        """A text's ids for the text tower."""
        text_tower = self.config.text
        assert text_tower is not None
        encode, size = self.vocabulary.encode, self.vocabulary.size
        if self.config.text_vocabulary is not None:
            encode, size = vocabulary.load_text(self.config.text_vocabulary, text_tower.max_length)
        if size > text_tower.vocab_size or text_tower.vocab_size - size > SPARE:
            which = self.config.text_vocabulary or "config.model.vocabulary"
            raise UserError(
                f"config.model.text.vocab_size: {text_tower.vocab_size}, but {which} has {size} ids; give "
                "config.model.text_vocabulary, the text tower's own tokenizer.json"
            )
        return encode(text)

    # Rows

    def prompt(self, example: Example) -> ExampleRow:
        self.check_lm()
        return stage_lm.place_images(self, example, layout.prompt(example, self.template), None)

    def unconditional(self, example: Example) -> ExampleRow:
        return self.prompt(layout.unasked(example))

    def read(self, ids: Ids) -> tuple[str, list[ImageCodes]]:
        words, images = decoding.read_ids(ids, self.vocabulary.ids, self.config.grid)
        return self.vocabulary.decode(words).strip(), images

    # Language model

    def codes_of(self, params: Params, batch: Batch) -> Int[Array, "batch images n depth"] | None:
        """The codes of a batch's pictures: those that came with it, or the tokenizer's; None without pictures."""
        if "codes" in batch:
            return batch["codes"]
        if VIEW not in batch.get("pixels", {}):
            return None
        return jax.lax.stop_gradient(self.encode_image(params, batch["pixels"]).codes)

    def embed(self, params: Params, batch: Batch) -> Embeds:
        """Table rows of the ids, projected codes at the pictures' positions."""
        embeds, codes = self.apply(params, "lm", batch["tokens"], method="embed_tokens"), self.codes_of(params, batch)
        if codes is None:
            return embeds
        by_branch = self.tokenizer.split(codes.reshape(-1, *codes.shape[2:]))
        sums = {name: self.tokenizer.embed(params, name, by_branch[name]).sum(-2) for name in self.config.branches}
        visual = self.visual_embeds(params, sums).reshape(len(embeds), -1, embeds.shape[-1])
        is_code = batch["modality"] == Modality.CODE
        slots = jnp.where(is_code, batch["slots"], 0)
        return jnp.where(is_code[..., None], jnp.take_along_axis(visual, slots[..., None], axis=1), embeds)

    def visual_embeds(
        self, params: Params, sums: Mapping[str, Array], at: Int[Array, "batch positions"] | None = None
    ) -> Float[Array, "batch _ width"]:
        """What the language model reads of pictures, from the sums of codebook rows, [B, n, features] by branch.

        Given indices `at`, only at these positions (which read those before them, no others).
        """
        features = self.visual_features(params, sums, at)
        return applied(self._projector, params["projector"], features)

    def visual_features(
        self, params: Params, sums: Mapping[str, Array], at: Int[Array, "batch positions"] | None = None
    ) -> Float[Array, "batch _ width"]:
        """The same before it is projected; no gradient reaches the tokenizer."""
        streams = []
        for name in self.config.visual_streams:
            x = sums[name if name in sums else "sem"]
            if self.config.visual_embed == "postquant":
                streams.append(self.tokenizer.features(params, name, x, at=at))
            else:
                streams.append(x if at is None else jnp.take_along_axis(x, at[..., None], axis=1))
        return jax.lax.stop_gradient(jnp.concatenate(streams, -1))

    def decode_init(self, params: Params, batch: Batch, settings: Decoding) -> decoding.DecodeState:
        del params
        return decoding.decode_init(self, batch, settings)

    def decode_step(
        self, params: Params, hidden: Hidden, state: decoding.DecodeState, settings: Decoding, keys: Keys
    ) -> tuple[Emission, decoding.DecodeState]:
        return decoding.decode_step(self, params, hidden, state, settings, keys)
