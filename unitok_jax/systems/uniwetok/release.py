"""UniWeTok's and BitDance's published checkpoints: what each is told by, the config it needs, how it is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems.release import Found
from unitok_jax.systems.uniwetok import published_sizes as sizes
from unitok_jax.systems.uniwetok import vocabulary as vocabularies
from unitok_jax.systems.uniwetok.config import released_sizes
from unitok_jax.systems.uniwetok.published_files import layouts
from unitok_jax.systems.uniwetok.published_sizes import Shapes, below, document

__all__ = ["VARIANTS", "layouts", "recipe", "vocabulary_of"]

VARIANTS: Mapping[str, str] = {
    "tokenizer": "a binary tokenizer: UniWeTok's hybrid, its training container, or a BitDance autoencoder",
    "c2i": "a class-conditional BitDance with the tokenizer that it carries",
    "lm": "the language model of a text-to-image model (model-*.safetensors)",
    "vision_head": "its vision_head.safetensors",
    "projector": "its projector.safetensors",
    "full_state": "the four of them as one training state",
}
MARKS = {  # a key that tells each of them
    "tokenizer": "encoder.conv_in.weight",
    "c2i": "cls_embedding.weight",
    "lm": "model.embed_tokens.weight",
    "vision_head": "net.input_proj.weight",
    "projector": "fc2.weight",
    "full_state": "vision_diffusion_head.net.input_proj.weight",
}
SPLIT = {  # prefixes of a training state
    "lm": "llm_model.",
    "vision_head": "vision_diffusion_head.",
    "projector": "embed_vision_mlp.",
    "tokenizer": "vision_encoder.",
}
TEXT = 151_669  # ids of Qwen3's text tokenizer
UNTRAINED = {"perceptual": 0.0}  # options under which stage tokenizer has the tokenizer alone
TOKENIZER = "tokenizer.json"


def recipe(found: Sequence[Found], variant: str, vocabulary: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of what was found, read off its shapes and the documents beside it; see `systems.release.Release`.

    Raises:
        UserError: for checkpoints that are none of `VARIANTS`, not the one asked for, or do not fit each other.
    """
    kinds = {kind_of(each): each for each in found}
    _check_variant(kinds, variant)
    shapes = {kind: _shapes(each) for kind, each in kinds.items()}
    if "full_state" in kinds:
        whole = shapes.pop("full_state")
        shapes |= {kind: below(whole, prefix) for kind, prefix in SPLIT.items()}
    if "c2i" in kinds:
        return _classes(kinds, shapes)
    if "lm" in shapes or "vision_head" in shapes:
        return _unified(kinds, shapes, vocabulary)
    if "tokenizer" not in shapes:
        raise UserError(f"{found[0].where}: a projector alone; give the language model and the tokenizer too")
    vae, notes = sizes.tokenizer(shapes["tokenizer"], _ae_document(kinds), kinds["tokenizer"].where)
    side = 256 if vae["kind"] == "hybrid" else 1024
    told = {"system": "uniwetok", "stage": "tokenizer", "stage_options": UNTRAINED}
    return {**told, "model": {"image_size": side, "vae": vae}}, notes


def kind_of(found: Found) -> str:
    """What a checkpoint is, by its keys.

    Raises:
        UserError: for one that is nothing of UniWeTok's.
    """
    keys = set(found.source.keys())
    for kind in ("full_state", "c2i", "lm", "vision_head", "tokenizer", "projector"):
        if MARKS[kind] in keys:
            return kind
    raise UserError(
        f"{found.where}: its keys ({min(keys)}, ...) are none of UniWeTok's or BitDance's checkpoints "
        f"({', '.join(VARIANTS)}); is it another --system?"
    )


def vocabulary_of(found: Sequence[Found]) -> Path | None:
    """The text tokenizer's file beside the language model."""
    for each in found:
        if kind_of(each) in ("lm", "full_state"):
            folder = each.folder if each.folder.is_dir() else each.folder.parent
            path = folder / TOKENIZER
            return path if path.exists() else None
    return None


def _check_variant(kinds: Mapping[str, Found], variant: str) -> None:
    if variant != "auto" and variant not in VARIANTS:
        raise UserError(f"--variant: no variant {variant!r}.{near(variant, ['auto', *VARIANTS])}")
    if variant != "auto" and variant not in kinds:
        kind, each = next(iter(kinds.items()))
        raise UserError(f"{each.where}: its keys are those of {kind}, not {variant}; give --variant {kind} or auto")


def _shapes(found: Found) -> Shapes:
    return {key: tuple(found.source.shape(key)) for key in tuple(found.source.keys())}


def _ae_document(kinds: Mapping[str, Found]) -> Mapping[str, Any]:
    """``ae_config.json``, also where it is named after its file, as in the tokenizers' repository."""
    found = kinds.get("tokenizer") or kinds.get("full_state")
    stem = found.folder.stem if found is not None and not found.folder.is_dir() else "ae"
    return document(found, f"{stem}_config.json") or document(found, "ae_config.json")


def _classes(kinds: Mapping[str, Found], shapes: Mapping[str, Shapes]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of a class-conditional model; its tokenizer is its own, or one given beside it."""
    own, where = shapes["c2i"], kinds["c2i"].where
    inside = below(own, "vae.") or shapes.get("tokenizer", {})
    if not inside:
        raise UserError(f"{where}: holds no tokenizer; give the tokenizer's checkpoint beside it")
    vae, notes = sizes.tokenizer(inside, _ae_document(kinds), where)
    generator, more = sizes.generator(own, vae["z_channels"])
    side = generator["grid"][0] * generator["patch"] * 2 ** (len(vae["multipliers"]) - 1)
    model = {"image_size": side, "vae": vae, "generator": generator}
    return {"system": "uniwetok", "stage": "c2i", "model": model}, (*notes, *more)


def _unified(
    kinds: Mapping[str, Found], shapes: Mapping[str, Shapes], vocabulary: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of a text-to-image model from its parts."""
    missing = [kind for kind in SPLIT if kind not in shapes]
    if missing:
        raise UserError(
            f"{next(iter(kinds.values())).where}: a text-to-image model is {', '.join(SPLIT)} together; "
            f"give {' and '.join(missing)} too"
        )
    source = kinds.get("lm") or kinds["full_state"]
    vae, notes = sizes.tokenizer(shapes["tokenizer"], _ae_document(kinds), source.where)
    head_of = kinds.get("vision_head") or kinds["full_state"]
    told = document(head_of, "vision_head_config.json")
    told = told.get("vision_pred", told)
    lm, more = sizes.language_model(shapes["lm"], source.settings)
    factor = 2 ** (len(vae["multipliers"]) - 1)
    parallel = _parallel(lm["vocab_size"], told.get("parallel_num"), factor, vocabulary, source.where)
    listed = released_sizes(factor, parallel)
    model = {
        **{"lm": lm, "flow": sizes.flow_head(shapes["vision_head"], told), "vae": vae, "parallel_num": parallel},
        **{"image_size": listed[0][0], "sizes": listed, "vocabulary": vocabulary},
    }
    grid = listed[0][0] // factor
    draw = {"guidance": 7.5, "grid": [grid, grid], "noise_steps": 50, "max_steps": grid * grid // parallel + 2}
    inference = {"draw": draw, "read": {"text": {"temperature": 0.0}}, "prompts": {"generate": "{caption}"}}
    return {"system": "uniwetok", "stage": "lm", "model": model, "inference": inference}, (*notes, *more)


def _parallel(rows: int, told: int | None, factor: int, vocabulary: str | None, where: str) -> int:
    """How many tokens are drawn at once, as the head's document says or the tables' rows do.

    Raises:
        UserError: where they differ, or the rows are those of no such model.
    """
    text = vocabularies.load(vocabulary, factor, 1).ids.resolution if vocabulary else TEXT
    found = rows - text - vocabularies.LARGEST // factor + 1
    if told is not None and told != found:
        raise UserError(
            f"{where}: tables of {rows} rows are those of a model that draws {found} tokens at once ({text} of text, "
            f"{vocabularies.LARGEST // factor} sides), but vision_head_config.json says parallel_num {told}"
        )
    if found < 1 or round(found**0.5) ** 2 != found:
        raise UserError(
            f"{where}: tables of {rows} rows: {text} ids of text and {vocabularies.LARGEST // factor} sides leave "
            f"{found - 1} queries, which no model has; give --vocabulary tokenizer.json or --config RECIPE"
        )
    return found
