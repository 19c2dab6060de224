"""The published checkpoints of DualToken, of what it starts from, and of our language model, as tables of rules."""

import dataclasses
import functools
from collections.abc import Mapping

from unitok_jax.backbones.attn_projection_rules import attn_projection_table
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.depth_head_rules import depth_head_table, vilau_table
from unitok_jax.backbones.discriminators_rules import discriminator_table
from unitok_jax.backbones.lpips_rules import lpips_artefacts
from unitok_jax.backbones.pixel_decoder_rules import pixel_decoder_table
from unitok_jax.backbones.residual_rules import residual_table
from unitok_jax.backbones.siglip_rules import siglip_table, siglip_text_table
from unitok_jax.systems.dualtoken.config import HEADS, DualTokenConfig
from unitok_jax.systems.dualtoken.stage_tokenizer import RESNET
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR, SAME

_NO_TEXT = "the text tower, which this config has not (model.text)"
_SPELLING = {"semantic": "sem", "pixel": "pix"}  # files from before 18 March 2026
_RENAMED = tuple(
    (f"{module}_{old}.", f"{module}_{new}.")
    for module in ("prequant", "postquant", "quantizer")
    for old, new in _SPELLING.items()
)
_VILAU = Table((), aliases=(("rqtransformer.", ""),))
_PROJECTOR = Table(
    tuple(
        Rule(f"mm_projector.layers.{index}.{theirs}", f"projector/{name}/{ours}", transform)
        for index, name in (("0", "fc1"), ("2", "fc2"))
        for theirs, ours, transform in (("weight", "kernel", LINEAR), ("bias", "bias", SAME))
    )
)


def artefacts(config: DualTokenConfig) -> dict[str, Table]:
    """Tables by name.

    ``tokenizer``: the released tokenizer's state dict, in its spelling and the older one. ``siglip``,
    ``siglip_vision``: the backbone, with and without its text tower. ``teacher``: the backbone's vision tower as the
    frozen one that the semantic loss compares with. ``discriminator``, ``lpips``, ``vgg16``, ``lpips_heads``: what the
    tokenizer's losses need. ``mllm``: the language model of our design; ``qwen``: the one it starts from.
    ``vilau_pixel_head``, ``vilau_semantic_head``: VILA-U's ``rqtransformer`` as either head, where `config.head` is of
    its kind (``project_hidden``, ``code_bias``, ``one_classifier``).
    """
    vit = siglip_table(config.tower)
    text, no_text = Table(()), {r"text_model\..*|logit_(scale|bias)": _NO_TEXT}
    if config.text:
        text, no_text = siglip_text_table(config.text).under("", "text/"), {}
    siglip = vit.under("vision_model.", "vit/") + text + Table((), no_text)
    tables = {
        "tokenizer": dataclasses.replace(
            siglip.under("siglip_model.", "") + _tokenizer(config), hint=functools.partial(explain, config)
        ),
        "siglip": siglip,
        "siglip_vision": vit.under("", "vit/"),
        "teacher": vit.under("vision_model.", "teacher/")
        + Table((), {r"text_model\..*|logit_(scale|bias)": "no part of the teacher"}),
        "discriminator": discriminator_table(RESNET).under("", "discriminator/"),
        **lpips_artefacts(),
    }
    if config.lm is None:
        return tables
    tables |= {"mllm": _mllm(config), "qwen": decoder_table(config.lm).under("", "lm/")}
    if config.head.one_classifier and config.head.code_bias:
        heads = {HEADS[branch]: config.depth_head(branch) for branch in config.branches}
        tables |= {f"vilau_{name}": _VILAU + vilau_table(head).under("", f"{name}/") for name, head in heads.items()}
    return tables


def _tokenizer(config: DualTokenConfig) -> Table:
    table = Table((), aliases=_RENAMED)
    before = {"pix": not config.single, "sem": config.prequant_sem}
    before["shortcut"] = not config.single and config.layer_shortcut is not None
    for name, there in before.items():
        if there:
            table += attn_projection_table().under(f"prequant_{name}.", f"prequant/{name}/")
    for name in ("pix", "sem"):
        table += attn_projection_table().under(f"postquant_{name}.", f"postquant/{name}/")
    for name in config.branches:
        table += residual_table(config.quantizer(name)).under(f"quantizer_{name}.", f"codebooks/{name}/")
    return table + pixel_decoder_table().under("", "decoder/")


def _mllm(config: DualTokenConfig) -> Table:
    assert config.lm is not None
    table = decoder_table(config.lm).under("llm.", "lm/") + _PROJECTOR
    for branch, name in (("pix", "pixel_head"), ("sem", "semantic_head")):
        if branch in config.branches:
            table += depth_head_table(config.depth_head(branch)).under(f"{name}.", f"{name}/")
    bundled = {r"vision_tower\..*": "the frozen tokenizer, which is loaded from its own checkpoint"}
    return table + Table((), bundled)


def explain(config: DualTokenConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What in the config does not fit a tokenizer's checkpoint, and what would; empty where nothing is seen.

    Args:
        config: the model's.
        shapes: of the checkpoint's tensors by key.
    """
    shapes = {respelled(key): shape for key, shape in shapes.items()}
    book, width = shapes.get("quantizer_pix.codebooks.0.weight"), config.vit.width
    if book and width % book[1]:
        return (
            f"its codes have {book[1]} channels and {width} is not a multiple of {book[1]}: this early file "
            "(DualToken-dim256) fits no released code"
        )
    wanted = {}
    if book:
        for branch in ("pix", "sem"):
            rows, features = shapes.get(f"quantizer_{branch}.codebooks.0.weight", book)
            wanted[f"{branch}.features"] = config.quantizer(branch).features, features
            wanted[f"{branch}.size"] = config.quantizer(branch).size, rows - 1
            depth = sum(key.startswith(f"quantizer_{branch}.") and key.endswith(".weight") for key in shapes)
            wanted[f"{branch}.depth"] = config.quantizer(branch).depth, depth
        legacy = not any(key.startswith("prequant_sem.") for key in shapes)
        wanted["prequant_sem"] = config.prequant_sem, not legacy
        if legacy:
            wanted["postquant_causal"] = config.postquant_causal, False
    patch = shapes.get("siglip_model.vision_model.embeddings.patch_embedding.weight")
    words = shapes.get("siglip_model.text_model.embeddings.token_embedding.weight")
    if patch:
        wanted["vit.patch_size"] = config.vit.patch_size, patch[-1]
        places = shapes.get("siglip_model.vision_model.embeddings.position_embedding.weight", (config.vit.grid**2,))[0]
        if places != config.vit.grid**2:
            wanted["vit.image_size"] = config.vit.image_size, pixels(patch[-1], round(places**0.5))
    if words and config.text:
        wanted["text.vocab_size"] = config.text.vocab_size, words[0]
    differ = [f"config.model.{key}={there} (now {here})" for key, (here, there) in wanted.items() if here != there]
    return f"this checkpoint needs {', '.join(differ)}" if differ else ""


def pixels(patch: int, grid: int) -> int:
    """Side of a tower's pictures; those of SigLIP SO400M/14 at 384 have a rest that is not looked at."""
    return 384 if (patch, grid) == (14, 27) else patch * grid


def respelled(key: str) -> str:
    """A key as files since 18 March 2026 spell it."""
    for old, new in _RENAMED:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
