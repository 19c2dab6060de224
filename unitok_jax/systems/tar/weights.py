"""The published checkpoints of Tar (specification, section 1), as tables of rules."""

import dataclasses
import re
from typing import Any

from unitok_jax.backbones.ar_image_rules import ar_image_table
from unitok_jax.backbones.dc_ae_rules import dc_ae_table
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.lpips_rules import lpips_artefacts
from unitok_jax.backbones.sana_rules import sana_table
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.backbones.taming_vae_rules import llamagen_table
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.ta_tok import TATokConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.torch_files import BARE
from unitok_jax.weights.transforms import LINEAR, Chain, Shape, Transform, Unsqueeze


@dataclasses.dataclass(frozen=True)
class Affine:
    """Upstream has ``factor * x + offset``, of the same shape."""

    factor: float
    offset: float

    def upstream_shape(self, shape: Shape) -> Shape:
        return shape

    def to_ours(self, x: Any, shape: Shape) -> Any:
        return (x - x.dtype.type(self.offset)) / x.dtype.type(self.factor)

    def to_upstream(self, x: Any) -> Any:
        return x * x.dtype.type(self.factor) + x.dtype.type(self.offset)


TOWER = "model.vision_tower.vision_tower."
_IN_PICKLE = Table((), aliases=(("sd.", ""),))  # the files hold {"args", "sd"} under "model"
_NO_TEXT = {r"text_model\..*|logit_(scale|bias)": "the text tower, which the teacher has no need of"}
_NO_TOWER = {re.escape(TOWER) + ".*": "the frozen tokenizer, which is loaded from ta_tok.pth"}


def artefacts(config: TarConfig) -> dict[str, Table]:
    """Tables by name.

    ``ta_tok``: ``ta_tok.pth``. ``tar``: the language model, whether the file holds the tokenizer or not.
    ``tar_with_tower``: both. ``ar``: ``ar_dtok_*.pth``. ``vq``: LlamaGen's ``vq_ds16_t2i.pt``. ``sana``, ``vae``: the
    diffusion de-tokenizer's folders; ``negative``: its ``negative_prompt_embeds.pth``. ``siglip_vision``: the teacher,
    from a SigLIP2 file. And what the VQ-VAE's perceptual loss reads, see `lpips_artefacts`.
    """
    ta_tok = ta_tok_table(config.ta_tok)
    tower = siglip_table(config.vit).under("", "vit/") + Table((), _NO_TEXT)
    tables = {"ta_tok": ta_tok.under("", "ta_tok/"), "siglip_vision": tower, **lpips_artefacts()}
    if config.lm is not None:
        lm = decoder_table(config.lm).under("", "lm/")
        inside = ta_tok_table(config.ta_tok, normalised=True).under(TOWER, "ta_tok/")
        tables |= {"tar": lm + Table((), _NO_TOWER), "tar_with_tower": lm + inside}
    if config.ar is not None:
        tables["ar"] = ar_image_table(config.ar).under("", "ar/") + _IN_PICKLE
    if config.vq is not None:
        tables["vq"] = llamagen_table(len(config.vq.multipliers)).under("", "vq/")
    if config.sana is not None:
        tables["sana"] = sana_table(config.sana).under("", "sana/")
        tables["negative"] = Table((Rule(BARE, "negative/embeds"),))
    if config.vae is not None:
        tables["vae"] = dc_ae_table().under("", "vae/")
    return tables


def ta_tok_table(config: TATokConfig, *, normalised: bool = False) -> Table:
    """Rules for TA-Tok's state dict.

    Args:
        config: the tokenizer's.
        normalised: as it stands inside the language model's checkpoint, whose pictures come in [-1, 1] and whose
            scale layer therefore changes nothing.
    """
    encoder = siglip_table(config.tower).under("encoder.", "encoder/")
    decoder = siglip_table(config.decoder, flat_patches=True).under("decoder.vision_model.", "decoder/")
    rules = [
        *_linear("encode_task_layer.0", "encode_task"),
        *_linear("decode_task_layer.0", "decode_task_in"),
        *_linear("decode_task_layer.2", "decode_task_out"),
        *_linear("bottleneck.in_linear", "in_linear"),
        *_linear("bottleneck.out_linear", "out_linear"),
        Rule("bottleneck.regularizer.embedding.weight", "codebook/embedding"),
        Rule("bottleneck.regularizer.embedding_proj.weight", "codebook/kernel", LINEAR),
        Rule("bottleneck.regularizer.embedding_proj.bias", "codebook/bias"),
        Rule("scale_layer.shift", "normalise/shift", _buffer(Affine(2, -1), normalised)),
        Rule("scale_layer.scale", "normalise/scale", _buffer(Affine(2, 0), normalised)),
    ]
    ignored = {r"teacher\..*": "the training's teacher, which the released loader drops too"}
    return encoder + decoder + Table(tuple(rules), ignored) + _IN_PICKLE


def _buffer(change: Affine, normalised: bool) -> Transform:
    """[1, 3, 1, 1]; for pictures in [-1, 1] shift and scale are twice as large, and shift counts from -1."""
    flat = Unsqueeze((0, 2, 3))
    return Chain((flat, change)) if normalised else flat


def _linear(upstream: str, ours: str) -> list[Rule]:
    return [Rule(upstream + ".weight", ours + "/kernel", LINEAR), Rule(upstream + ".bias", ours + "/bias")]
