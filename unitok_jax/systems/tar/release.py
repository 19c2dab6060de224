"""Tar's published checkpoints: what each is told by, the config they need together, and the files they are written
as."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems.release import Found
from unitok_jax.systems.tar import published_model as model
from unitok_jax.systems.tar.published_files import layouts
from unitok_jax.systems.tar.weights import TOWER

__all__ = ["VARIANTS", "layouts", "recipe", "vocabulary_of"]

VARIANTS: Mapping[str, str] = {
    "lm": "the language model, with or without the tokenizer in it",
    "ta_tok": "ta_tok.pth",
    "ar": "ar_dtok_*.pth",
    "vq": "LlamaGen's vq_ds16_t2i.pt",
    "sana": "the transformer folder of a diffusion de-tokenizer",
    "vae": "its vae folder",
    "negative": "its negative_prompt_embeds.pth",
}
SIGNS = {  # a key that tells each kind
    "lm": "model.layers.0.self_attn.q_proj.bias",  # Qwen2's alone; other systems' models have none
    "ta_tok": "bottleneck.regularizer.embedding.weight",
    "ar": "abs_pe",
    "vq": "quantize.embedding.weight",
    "sana": "caption_projection.linear_1.weight",
    "vae": "decoder.conv_in.weight",
    "negative": "tensor",
}
PAIRS = {"ar": ("ar", "vq"), "sana": ("sana", "vae", "negative")}  # a de-tokenizer and what it draws with
RELEASED: Mapping[str, Mapping[str, Any]] = {  # of a part that no checkpoint tells but another part needs
    "vq": {"embed_dim": 8, "codebook_size": 16384, "attn_resolutions": (16,), "resolution": 256, "l2_norm": True},
    **{"ar": {}, "sana": {}, "vae": {}},
}
VOCABULARIES = ("tokenizer.json",)
# How the released scripts read and draw: Qwen2.5's own sampling for words, no guidance for codes, the caption alone.
INFERENCE: Mapping[str, Any] = {
    "read": {"text": {"temperature": 0.7, "top_k": 20, "top_p": 0.8}, "max_steps": 256},
    "draw": {
        "text": {"temperature": 0.0},
        "image": {"top_k": 1200, "top_p": 0.95},
        "guidance": 1.0,
        "max_steps": 731,
    },
    "prompts": {"generate": "{caption}"},
}


def recipe(found: Sequence[Found], variant: str, vocabulary: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of what was found; see `systems.release.Release`.

    Raises:
        UserError: for checkpoints that are none of `VARIANTS`, not the one that was asked for, or that no stage holds
            together.
    """
    kinds: dict[str, Found] = {}
    for each in found:
        first = kinds.setdefault(kind_of(each), each)
        if first is not each:
            raise UserError(
                f"{each.where}: holds {kind_of(each)}, which {first.where} holds too; import each into its own --out"
            )
    _check_variant(kinds, variant)
    parts, notes = _parts(kinds)
    if vocabulary is not None:
        parts["vocabulary"] = vocabulary
    elif "lm" in kinds:
        raise UserError(
            f"{kinds['lm'].where}: no tokenizer.json beside it; give --vocabulary, the tokenizer that belongs to it"
        )
    stage, options = _stage(kinds, parts)
    config = {"system": "tar", "stage": stage, "stage_options": options, "model": parts}
    return {**config, "inference": copy.deepcopy(INFERENCE)} if "lm" in kinds else config, notes


def kind_of(found: Found) -> str:
    """What a checkpoint is, by its keys.

    Raises:
        UserError: for one that is nothing of Tar's.
    """
    keys = {key.removeprefix("sd.") for key in found.source.keys()}  # noqa: SIM118
    kind = next((kind for kind, sign in SIGNS.items() if sign in keys), None)
    if kind is None:
        raise UserError(
            f"{found.where}: its keys ({min(keys)}, ...) are none of Tar's checkpoints ({', '.join(VARIANTS)}); "
            "is it another --system?"
        )
    return kind


def vocabulary_of(found: Sequence[Found]) -> Path | None:
    """The tokenizer file beside the language model."""
    for each in found:
        folder = each.folder if each.folder.is_dir() else each.folder.parent
        for path in (folder / name for name in VOCABULARIES):
            if path.exists() and kind_of(each) == "lm":
                return path
    return None


def _check_variant(kinds: Mapping[str, Found], variant: str) -> None:
    if variant == "auto":
        return
    if variant not in VARIANTS:
        raise UserError(f"--variant: no variant {variant!r}.{near(variant, ['auto', *VARIANTS])}")
    if variant not in kinds:
        kind, each = next(iter(kinds.items()))
        raise UserError(f"{each.where}: its keys are those of {kind}, not {variant}")


def _parts(kinds: Mapping[str, Found]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of each part that some checkpoint tells, and of those that go with it."""
    parts: dict[str, Any] = {}
    notes: list[str] = []
    lm = kinds.get("lm")
    inside = lm is not None and f"{TOWER}{SIGNS['ta_tok']}" in lm.source.keys()  # noqa: SIM118
    holder = kinds.get("ta_tok") or (lm if inside else None)
    if holder is not None:
        prefix = TOWER if holder is lm else "sd." if f"sd.{SIGNS['ta_tok']}" in holder.source.keys() else ""  # noqa: SIM118
        parts["ta_tok"], more = model.ta_tok_settings(holder, prefix)
        notes += more
    if lm is not None:
        parts["lm"] = model.lm_settings(lm)
    if "ar" in kinds:
        parts["ar"], more = model.ar_settings(kinds["ar"], _condition_tokens(kinds["ar"], parts))
        notes += more
    for kind, read in (("vq", model.vq_settings), ("sana", model.sana_settings), ("vae", model.vae_settings)):
        if kind in kinds:
            parts[kind] = read(kinds[kind])
    if "sana" in kinds and "sample_size" in kinds["sana"].settings:
        factor = 2 ** (len(parts.get("vae", {}).get("encoder_widths", range(6))) - 1)
        parts["sana_size"] = kinds["sana"].settings["sample_size"] * factor
    for pair in (pair[:2] for pair in PAIRS.values() if any(name in parts for name in pair)):
        alone = pair == ("ar", "vq") and "ar" not in parts  # a VQ-VAE is trained by itself too
        parts |= {name: dict(RELEASED[name]) for name in pair if name not in parts and not alone}
    if "ar" in parts and "vq" not in kinds:
        parts["vq"]["codebook_size"] = parts["ar"]["codes"]
    return parts, tuple(notes)


def _condition_tokens(found: Found, parts: Mapping[str, Any]) -> int:
    """How many vectors the de-tokenizer's table has room for: as its file or the tokenizer says, else as released."""
    told = found.settings.get("args", {}).get("cls_token_num")
    encoder = parts.get("ta_tok", {}).get("encoder")
    grid = encoder and encoder["image_size"] // encoder["patch_size"]
    return int(told) if told and told > 1 else grid**2 if grid else model.SCALE_1


def _stage(kinds: Mapping[str, Found], parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The training stage whose parameters these are, and its options."""
    drawing = [name for name in PAIRS if any(kind in kinds for kind in PAIRS[name]) and name in parts]
    if "lm" in kinds:
        return "lm", {"carry": drawing}
    if len(drawing) > 1:
        raise UserError("two de-tokenizers without the language model that carries both: import them apart")
    if drawing:
        return drawing[0], {}
    return ("ta_tok" if "ta_tok" in kinds else "vq"), {}
