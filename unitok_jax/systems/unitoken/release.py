"""UniToken's published checkpoints: what each is told by, the config it needs, and the files it is written as."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems.release import Found
from unitok_jax.systems.unitoken import published_model as model
from unitok_jax.systems.unitoken.config import RELEASED_CANVASES, RELEASED_PROMPT, UniTokenConfig
from unitok_jax.systems.unitoken.published_files import layouts
from unitok_jax.systems.unitoken.vocabulary import code_name, load

__all__ = ["VARIANTS", "layouts", "recipe", "vocabulary_of"]

VARIANTS: Mapping[str, str] = {
    "base": "UniToken-base, one view of an image",
    "anyres": "UniToken-AnyRes, an overview and tiles; the same keys as base",
    "lumina_mgpt": "Lumina-mGPT, the LM that UniToken starts from",
    "chameleon": "Hugging Face's conversion of Chameleon",
    "chameleon_meta": "Chameleon as Meta released it, in one file",
    "vqgan": "Chameleon's vqgan.ckpt",
    "siglip": "SigLIP, both towers or the vision tower alone",
}
BROAD = {"base": "unitoken", "anyres": "unitoken"}
LMS = ("lumina_mgpt", "chameleon", "chameleon_meta")
# Settings of parts that no checkpoint tells: the released model's.
ABSENT = {
    "lm": {
        **{"vocab_size": 65536, "width": 4096, "ffn": 11008, "layers": 32, "heads": 32, "kv_heads": 32},
        **{"head_dim": 128, "qk_norm": "layernorm"},
    },
    "vit": {},
}
VOCABULARIES = ("text_tokenizer.json", "tokenizer/text_tokenizer.json", "tokenizer.json")


def recipe(found: Sequence[Found], variant: str, vocabulary: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of what was found; see `systems.release.Release`.

    Raises:
        UserError: for checkpoints that are none of `VARIANTS`, or not the one that was asked for.
    """
    kinds = {kind_of(each): each for each in found}
    _check_variant(kinds, variant)
    parts = _parts(kinds)
    views, notes = _views(kinds.get("unitoken"), variant)
    parts |= views
    crops = [each.settings["unitoken_crop"] for each in found if "unitoken_crop" in each.settings]
    if crops:
        parts["image_size"] = crops[0]
    if vocabulary is not None:
        parts["vocabulary"] = vocabulary
    codes = load(vocabulary).ids.codes
    if "vqgan" not in parts:
        parts["vqgan"] = {"codebook_size": codes}
        _check_crop(found, parts.get("image_size"))
    _check_codes(found, parts["vqgan"]["codebook_size"], codes, vocabulary)
    stage = _stage(kinds, parts)
    inference = {"prompts": {"generate": RELEASED_PROMPT}}
    return {"system": "unitoken", "stage": stage, "model": {**ABSENT, **parts}, "inference": inference}, notes


def _check_crop(found: Sequence[Found], side: int | None) -> None:
    """Without a VQGAN's own checkpoint the released one is meant, which not every crop fits."""
    unit = 2 * VAEConfig().factor
    if side is not None and side % unit:
        raise UserError(
            f"{found[0].where}: its pictures of {side} do not fit the released VQGAN, whose grid unit is {unit} "
            "pixels; name the vqgan.ckpt that belongs to it too"
        )


def kind_of(found: Found) -> str:
    """What a checkpoint is, by its keys.

    Raises:
        UserError: for one that is nothing of UniToken's.
    """
    keys = set(found.source.keys())
    towers = {"vision_model.embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight"}
    if "tok_embeddings.weight" in keys:
        return "chameleon_meta"
    if any(key.startswith("model.layers.") and ".q_norm." in key for key in keys):
        if "adapter.0.weight" in keys or any(key.startswith("vit.") for key in keys):
            return "unitoken"
        return "chameleon" if any(key.startswith("model.vqmodel.") for key in keys) else "lumina_mgpt"
    if "encoder.conv_in.weight" in keys and "quantize.embedding.weight" in keys:
        return "vqgan"
    if keys & towers:
        return "siglip"
    raise UserError(
        f"{found.where}: its keys ({min(keys)}, ...) are none of UniToken's checkpoints "
        f"({', '.join(VARIANTS)}); is it another --system?"
    )


def vocabulary_of(found: Sequence[Found]) -> Path | None:
    """The tokenizer file, beside one of the checkpoints, that has UniToken's tokens."""
    for each in found:
        folder = each.folder if each.folder.is_dir() else each.folder.parent
        for path in (folder / name for name in VOCABULARIES):
            if path.exists() and code_name(0) in path.read_text():
                return path
    return None


def _check_variant(kinds: Mapping[str, Found], variant: str) -> None:
    if variant == "auto":
        return
    if variant not in VARIANTS:
        raise UserError(f"--variant: no variant {variant!r}.{near(variant, ['auto', *VARIANTS])}")
    if BROAD.get(variant, variant) not in kinds:
        kind, each = next(iter(kinds.items()))
        fits = "base or anyres" if kind == "unitoken" else kind
        raise UserError(f"{each.where}: its keys are those of {fits}, not {variant}; give --variant {fits} or auto")


def _parts(kinds: Mapping[str, Found]) -> dict[str, Any]:
    """The settings of each part that some checkpoint tells."""
    parts: dict[str, Any] = {}
    for kind, each in kinds.items():
        if kind in ("unitoken", *LMS):
            parts["lm"] = model.lm_settings(each)
            parts["context"] = int(each.settings.get("max_position_embeddings", UniTokenConfig.context))
        if kind == "chameleon":
            parts.setdefault("vqgan", model.vqgan_settings(each, "model.vqmodel."))
        if kind == "unitoken":
            parts["vit"] = model.vit_settings(each, "vit.")
        if kind == "siglip":
            prefix = "vision_model." if "vision_model.post_layernorm.weight" in each.source.keys() else ""  # noqa: SIM118
            parts["vit"] = model.vit_settings(each, prefix)
        if kind == "vqgan":
            parts["vqgan"] = model.vqgan_settings(each)
    return parts


def _stage(kinds: Mapping[str, Found], parts: dict[str, Any]) -> str:
    """The training stage whose parameters these are; adds the text tower where SigLIP comes by itself."""
    if set(kinds) == {"vqgan"}:
        return "vqgan"
    towers = kinds.get("siglip")
    if set(kinds) == {"siglip"} and towers and "logit_scale" in towers.source.keys():  # noqa: SIM118
        parts["text"] = model.text_settings(towers)
        return "tower"
    return "lm"


def _views(found: Found | None, variant: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """AnyRes's tiles where it is AnyRes: as said, or as its config or name says; nothing in its keys does."""
    told = found.settings.get("unitoken_variant") if found else None
    if variant == "auto" and found:
        folder = found.folder if found.folder.is_dir() else found.folder.parent
        called = folder.absolute().name if Path(found.where).exists() else found.where  # a hub id
        named = [name for name in ("anyres", "base") if name in called.lower()]
        variant = told or next(iter(named), "auto")
    anyres = {"canvases": RELEASED_CANVASES} if variant == "anyres" else {}
    if variant != "auto" or found is None:
        return anyres, ()
    text = "taken as base: AnyRes has the same keys and shapes, and no name tells; --variant anyres if it is that"
    return {}, (f"{found.where} {text}",)


def _check_codes(found: Sequence[Found], size: int, known: int, vocabulary: str | None) -> None:
    if size != known:
        names = vocabulary or "the small bundled vocabulary, for want of a tokenizer file beside the checkpoint,"
        raise UserError(
            f"{found[0].where}: {size} image codes, but {names} has {known}; give --vocabulary text_tokenizer.json"
        )
