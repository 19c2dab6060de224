"""The published checkpoints of UniWeTok and BitDance (specification, section 2), as tables of rules."""

import dataclasses
import functools
from collections.abc import Mapping

from unitok_jax.backbones.binary_vae_rules import binary_vae_table, training_container_table
from unitok_jax.backbones.bitdance_rules import bitdance_table
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.flow_head_rules import flow_head_table
from unitok_jax.backbones.lpips_rules import lpips_artefacts
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.siglip_rules import siglip_table
from unitok_jax.backbones.siglip_timm_rules import siglip_timm_table
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import LINEAR

QWEN3_ROWS = 151_936  # of Qwen3's tables; its text tokenizer has 151,669 ids
_TEACHER = SiglipConfig()  # of its fields the rules read `pooling` alone, which a teacher must have
_NO_TEXT = {r"text_model\..*|logit_(scale|bias)": "the text tower, which the teacher has no need of"}
_VAE = {r"vae\..*": "the frozen tokenizer, which the model carries along; it is published by itself too"}


def artefacts(config: UniWeTokConfig) -> dict[str, Table]:
    """Tables by name.

    ``tokenizer``: a released binary tokenizer, or a training run's (its moving average). ``tokenizer_container``: what
    such a run's checkpoint is, for writing. ``c2i``: a class-conditional model with the tokenizer that it carries;
    ``c2i_alone``: without. ``lm``, ``vision_head``, ``projector``, ``ae``: the files of a released text-to-image model;
    ``lm`` is also Qwen3 as it is published, whose tables are resized (specification, 8.2). ``full_state``: the same as
    one training state. ``teacher``, ``teacher_timm``: the tower of the distillation, as Hugging Face and as timm and
    open_clip name it. And what the perceptual loss reads, see `lpips_artefacts`.
    """
    vae = binary_vae_table(config.vae)
    tables = {
        "tokenizer": vae.under("", "vae/"),
        "tokenizer_container": training_container_table(config.vae).under("", "vae/"),
        "teacher": siglip_table(_TEACHER).under("", "vit/") + Table((), _NO_TEXT),
        "teacher_timm": siglip_timm_table(_TEACHER).under("", "vit/"),
        **lpips_artefacts(),
    }
    if config.generator is not None:
        generator = bitdance_table(config.generator).under("", "generator/")
        tables["c2i"] = generator + vae.under("vae.", "vae/")
        tables["c2i_alone"] = generator + Table((), _VAE)
    if config.lm is not None:
        lm = decoder_table(config.lm, starts_from=QWEN3_ROWS)
        head, projector = flow_head_table(config.flow), _projector()
        tables |= {
            "lm": lm.under("", "lm/"),
            "vision_head": head.under("", "flow/"),
            "projector": projector.under("", "projector/"),
            "ae": tables["tokenizer"],
            "full_state": lm.under("llm_model.", "lm/")
            + head.under("vision_diffusion_head.", "flow/")
            + projector.under("embed_vision_mlp.", "projector/")
            + vae.under("vision_encoder.", "vae/"),
        }
    hint = functools.partial(explain, config)
    return {name: dataclasses.replace(table, hint=hint) for name, table in tables.items()}


def explain(config: UniWeTokConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How many tokens at once a checkpoint that does not fit draws, where that is why; else empty.

    Args:
        config: the model's.
        shapes: of the checkpoint's tensors by key.
    """
    query, tables = shapes.get("query_token"), shapes.get("model.embed_tokens.weight")
    tables = tables or shapes.get("llm_model.model.embed_tokens.weight")
    if config.generator is not None and any(key.startswith("cls_embedding.") for key in shapes):
        found, now = query[1] + 1 if query else 1, config.generator.parallel_num
        told = f"config.model.generator.parallel_num={found}"
    elif config.lm is not None and tables:
        now = config.parallel_num
        found = now + tables[0] - config.lm.vocab_size
        told = f"config.model.parallel_num={found} and config.model.lm.vocab_size={tables[0]}"
    else:
        return ""
    square = found > 0 and round(found**0.5) ** 2 == found
    return (
        f"this checkpoint draws {found} tokens at once, the config {now}: set {told}" if found != now and square else ""
    )


def _projector() -> Table:
    return Table(
        tuple(
            rule
            for name in ("fc1", "fc2")
            for rule in (Rule(f"{name}.weight", f"{name}/kernel", LINEAR), Rule(f"{name}.bias", f"{name}/bias"))
        )
    )
