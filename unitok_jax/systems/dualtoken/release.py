"""DualToken's published checkpoints: what each is told by, the config it needs, and the files it is written as."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems.dualtoken.weights import pixels, respelled
from unitok_jax.systems.release import Found, Layout

VARIANTS: Mapping[str, str] = {
    "tokenizer": "the released tokenizer, in its spelling or the one before 18 March 2026",
    "legacy": "the snapshot of March 2026: no projection before the semantic quantizer",
}
HEADS = {1152: 16, 1024: 16, 768: 12}
PADS = {256000: 0, 32000: 1}  # ids of SigLIP2's (Gemma's) and SigLIP's tokenizer -> the one that fills texts up
TAPS = {27: (6, 4, 26)}  # layers -> layer_recon, layer_shortcut, layer_sem
UNTRAINED = {  # stage options under which the stage has the tokenizer's parts alone
    **{"semantic": 0.0, "semantic_cosine": 0.0, "pooler": 0.0, "pooler_cosine": 0.0, "perceptual": 0.0},
}
Shapes = Mapping[str, tuple[int, ...]]
TOWER, TEXT = "siglip_model.vision_model.", "siglip_model.text_model."


def recipe(found: Sequence[Found], variant: str, vocabulary: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of a tokenizer's checkpoint, read off its shapes; see `systems.release.Release`.

    Raises:
        UserError: for several checkpoints, one of another kind, or one that no released code fits.
    """
    if len(found) != 1:
        raise UserError(
            f"{len(found)} checkpoints; DualToken's tokenizer is one file: import others with --config RECIPE"
        )
    each = found[0]
    shapes = {respelled(key): tuple(each.source.shape(key)) for key in tuple(each.source.keys())}
    legacy = _check(each.where, shapes, variant)
    vit, notes = _tower(shapes)
    model = {
        **_taps(vit["layers"], shapes),
        "vit": vit,
        "pix": _quantizer(shapes, "pix"),
        "sem": _quantizer(shapes, "sem"),
        "decoder": _decoder(shapes, vit["image_size"]),
        "prequant_sem": not legacy,
        "postquant_causal": not legacy,
        "text": _text(shapes, vit["width"]),
    }
    if vocabulary is not None:
        model["text_vocabulary"] = vocabulary
    if model["text"] is not None:
        model["text_pad"] = PADS.get(model["text"]["vocab_size"])
    told = {"system": "dualtoken", "stage": "tokenizer", "stage_options": UNTRAINED, "model": model}
    return told, (*notes, "taken as released: the taps' layers, codebooks shared by all depths, decay 0.99")


def vocabulary_of(found: Sequence[Found]) -> Path | None:
    """None: the text tower's tokenizer does not stand beside DualToken's checkpoints."""
    del found


def layouts(system: Any, parts: Sequence[str], form: str) -> list[Layout]:
    """The tokenizer as the released evaluation loads it, the language model (our design) as safetensors.

    Raises:
        UserError: for a format that nothing of DualToken has.
    """
    if form != "upstream":
        raise UserError(f"--format {form}: no published code of this kind loads DualToken; take upstream")
    made = []
    if set(system.coder_parts) <= set(parts) and (system.config.text is None or "text" in parts):
        loads = "the released evaluation's --resume, as its own epoch files"
        made.append(Layout("tokenizer", file="epoch_latest.pt", entry="state_dict", loads=loads))
    if set(system.lm_parts) <= set(parts):
        made.append(Layout("mllm", folder="mllm", loads="unitok alone: the authors' language model is not public"))
    if not made:
        raise UserError(f"parts {', '.join(parts)}: neither a whole tokenizer nor a whole language model")
    return made


def _check(where: str, shapes: Shapes, variant: str) -> bool:
    """Whether it is the legacy variant."""
    if variant not in ("auto", *VARIANTS):
        raise UserError(f"--variant: no variant {variant!r}.{near(variant, ['auto', *VARIANTS])}")
    book, patch = (
        shapes.get("quantizer_pix.codebooks.0.weight"),
        shapes.get(f"{TOWER}embeddings.patch_embedding.weight"),
    )
    if book is None or patch is None:
        raise UserError(f"{where}: its keys ({min(shapes)}, ...) are not those of DualToken's tokenizer; give --config")
    if patch[0] % book[1]:
        raise UserError(
            f"{where}: codes of {book[1]} channels, of which the tower's {patch[0]} is no multiple: this early file "
            "(DualToken-dim256) fits no released code"
        )
    legacy = not any(key.startswith("prequant_sem.") for key in shapes)
    if variant != "auto" and (variant == "legacy") != legacy:
        raise UserError(f"{where}: its keys are those of {'legacy' if legacy else 'tokenizer'}, not {variant}")
    return legacy


def _tower(shapes: Shapes) -> tuple[dict[str, int], tuple[str, ...]]:
    width, _, patch, _ = shapes[f"{TOWER}embeddings.patch_embedding.weight"]
    grid = round(shapes[f"{TOWER}embeddings.position_embedding.weight"][0] ** 0.5)
    settings = {"width": width, "image_size": pixels(patch, grid), "patch_size": patch}
    settings |= _layers(shapes, TOWER, width)
    notes = () if width in HEADS else (f"heads of the tower: {settings['heads']}, guessed from its width {width}",)
    return settings, notes


def _layers(shapes: Shapes, prefix: str, width: int) -> dict[str, int]:
    layers = _count(shapes, rf"{re.escape(prefix)}encoder\.layers\.(\d+)\..*")
    ffn = shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0]
    return {"ffn": ffn, "layers": layers, "heads": HEADS.get(width, max(1, width // 64))}


def _taps(layers: int, shapes: Shapes) -> dict[str, Any]:
    recon, shortcut, sem = TAPS.get(layers, (max(1, layers // 4), max(1, layers // 6), layers - 1))
    there = any(key.startswith("prequant_shortcut.") for key in shapes)
    return {"layer_recon": recon, "layer_shortcut": shortcut if there else None, "layer_sem": sem}


def _quantizer(shapes: Shapes, branch: str) -> dict[str, Any]:
    rows, features = shapes[f"quantizer_{branch}.codebooks.0.weight"]
    depth = _count(shapes, rf"quantizer_{branch}\.codebooks\.(\d+)\.weight")
    return {"features": features, "size": rows - 1, "depth": depth, "kind": "rq" if branch == "pix" else "rq_ema"}


def _decoder(shapes: Shapes, side: int) -> dict[str, Any]:
    levels = _count(shapes, r"decoder\.up\.(\d+)\..*")
    widths = [shapes[f"decoder.up.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    unit, factor = min(widths), 2 ** (levels - 1)
    attends = [level for level in range(levels) if f"decoder.up.{level}.attn.0.q.weight" in shapes]
    return {
        "latent_shape": (side // factor, side // factor),
        "in_channels": shapes["decoder.conv_in.weight"][1],
        "channels": unit,
        "multipliers": tuple(width // unit for width in widths),
        "res_blocks": _count(shapes, r"decoder\.up\.0\.block\.(\d+)\..*") - 1,
        "attn_resolutions": tuple(side // 2**level for level in attends),
        "resolution": side,
        "out_channels": shapes["decoder.conv_out.weight"][0],
    }


def _text(shapes: Shapes, projection: int) -> dict[str, int] | None:
    words = shapes.get(f"{TEXT}embeddings.token_embedding.weight")
    if words is None:
        return None
    length = shapes[f"{TEXT}embeddings.position_embedding.weight"][0]
    settings = {"vocab_size": words[0], "width": words[1], "max_length": length, "projection": projection}
    return settings | _layers(shapes, TEXT, words[1])


def _count(shapes: Shapes, regex: str) -> int:
    numbers = {int(match[1]) for key in shapes if (match := re.fullmatch(regex, key))}
    return max(numbers, default=-1) + 1
