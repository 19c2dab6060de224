"""The settings of a DualToken model: `config.model` of its recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from unitok_jax.backbones.attn_projection import ProjectionConfig
from unitok_jax.backbones.decoder_lm import DecoderConfig
from unitok_jax.backbones.depth_head import DepthHeadConfig
from unitok_jax.backbones.pixel_decoder import PixelDecoderConfig
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.errors import UserError
from unitok_jax.quantizers.residual import ResidualConfig
from unitok_jax.settings import from_config

SIGLIP2_TEXT = SiglipTextConfig(vocab_size=256000)
HEADS = {"pix": "pixel_head", "sem": "semantic_head"}  # the parts that predict each branch's codes
SEMANTIC = ResidualConfig(kind="rq_ema")


@dataclasses.dataclass(frozen=True)
class DualTokenConfig:
    """A DualToken model; the defaults are the released tokenizer of 384 pixels (SigLIP2 SO400M/14, depth 8).

    Attributes:
        vit: the SigLIP tower; its layers are cut where a tap lies.
        layer_recon, layer_sem: layers (counted from 1) whose output the pixel and the semantic branch quantise.
        layer_shortcut: a layer whose second projection is added to the pixel branch's, or None.
        weight_shortcut: its factor.
        pix, sem: the quantizers.
        decoder: pixel codes to pictures.
        prequant_sem: whether the semantic branch is projected before it is quantised (the released snapshot of March
            2026 has no such projection).
        postquant_causal: whether positions see earlier ones alone in the projections behind the quantizers (not so in
            that snapshot).
        single: one set of codes, those of `sem`, serves both branches: the direct combination of the paper's Table 3.
        text: the tower's text side, for zero-shot classification; None where there is none.
        lm: the language model, or None where the model is a tokenizer alone.
        head: the depth heads of the language model, but for what follows from the rest (see `depth_head`).
        visual_embed: what the language model reads of a picture: ``postquant``, the features behind the quantizers, or
            ``codebook``, sums of codebook rows.
        visual_streams: which branches the language model reads, in this order.
        system_message: of every conversation; empty leaves it out.
        vocabulary: path of the language model's tokenizer JSON; None is the small bundled one.
        text_vocabulary: path of the text tower's tokenizer JSON; None is `vocabulary`.
        text_pad: the id that texts are filled up with for the text tower; None is the end-of-text of `vocabulary`.
    """

    vit: SiglipConfig = dataclasses.field(default_factory=SiglipConfig)
    layer_recon: int = 6
    layer_shortcut: int | None = 4
    layer_sem: int = 26
    weight_shortcut: float = 0.6
    pix: ResidualConfig = dataclasses.field(default_factory=ResidualConfig)
    sem: ResidualConfig = SEMANTIC
    decoder: PixelDecoderConfig = dataclasses.field(default_factory=PixelDecoderConfig)
    prequant_sem: bool = True
    postquant_causal: bool = True
    single: bool = False
    text: SiglipTextConfig | None = SIGLIP2_TEXT
    lm: DecoderConfig | None = None
    head: DepthHeadConfig = dataclasses.field(default_factory=DepthHeadConfig)
    visual_embed: Literal["postquant", "codebook"] = "postquant"
    visual_streams: tuple[str, ...] = ("pix", "sem")
    system_message: str = "You are a helpful assistant."
    vocabulary: str | None = None
    text_vocabulary: str | None = None
    text_pad: int | None = None

    def __post_init__(self):
        taps = [layer for layer in (self.layer_recon, self.layer_shortcut) if layer is not None]
        if not all(0 < layer <= self.layer_sem <= self.vit.layers for layer in taps):
            raise UserError(
                f"config.model: taps {taps} and layer_sem {self.layer_sem} of {self.vit.layers} layers; the pixel taps "
                "must come no later than layer_sem"
            )
        if not self.vit.pooling:
            raise UserError("config.model.vit.pooling: DualToken reads its tower through the pooling head; set it True")
        if not self.visual_streams or not set(self.visual_streams) <= {"pix", "sem"}:
            raise UserError(f"config.model.visual_streams: {self.visual_streams}; expected pix, sem or both")
        if not self.prequant_sem and self.sem.features != self.vit.width:
            raise UserError(
                f"config.model.sem.features: {self.sem.features}, but without prequant_sem the tower's "
                f"{self.vit.width} channels are quantised; make them agree"
            )
        for name in self.branches:
            self.projection(name, down=True)  # refuses widths that do not go together

    @property
    def branches(self) -> tuple[str, ...]:
        """The sets of codes: ``pix`` and ``sem``, or ``sem`` alone."""
        return ("sem",) if self.single else ("pix", "sem")

    @property
    def tower(self) -> SiglipConfig:
        """The tower cut at its taps, and before its last layer, whose input the semantic loss compares."""
        taps = {self.layer_recon, self.layer_shortcut or 0, self.layer_sem, self.vit.layers - 1, *self.vit.cuts}
        cuts = tuple(sorted(layer for layer in taps if 0 < layer < self.vit.layers))
        return dataclasses.replace(self.vit, cuts=cuts)

    @property
    def depth(self) -> int:
        """Codes a position, all branches together."""
        return sum(self.quantizer(name).depth for name in self.branches)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the positions of codes of one picture."""
        rows, columns = self.quantizer("sem").merge
        return self.vit.grid // rows, self.vit.grid // columns

    def quantizer(self, branch: str) -> ResidualConfig:
        """The quantizer of ``pix`` or ``sem``."""
        return self.sem if branch == "sem" or self.single else self.pix

    def projection(self, branch: str, down: bool) -> ProjectionConfig:
        """The projection before (`down`) or behind a branch's quantizer."""
        width, features = self.vit.width, self.quantizer(branch).features
        if width % features:
            raise UserError(
                f"config.model.{branch}.features: {features} channels a code do not divide the tower's {width}, as the "
                "attention projections need (so the early file DualToken-dim256 cannot be loaded: no released code "
                "fits it)"
            )
        pair = (width, features) if down else (features, width)
        return ProjectionConfig(*pair, width // features, not down and self.postquant_causal, self.vit.dtype)

    def depth_head(self, branch: str) -> DepthHeadConfig:
        """The head that predicts a branch's codes."""
        quantizer = self.quantizer(branch)
        assert self.lm is not None
        return dataclasses.replace(
            self.head,
            hidden=self.lm.width,
            width=self.head.width or self.lm.width,
            depth=quantizer.depth,
            codes=quantizer.size,
            code_features=quantizer.width,
            dtype=self.lm.dtype,
        )


def read(values: Mapping[str, Any]) -> DualTokenConfig:
    """Reads `config.model`.

    Raises:
        UserError: for an unknown key, or parts that do not fit each other.
    """
    return from_config(DualTokenConfig, values, "config.model")
