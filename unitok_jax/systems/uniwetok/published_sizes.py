"""The sizes of published networks, read off the shapes of their tensors and the documents that lie beside them."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from unitok_jax.errors import UserError
from unitok_jax.systems.release import Found

Shapes = Mapping[str, tuple[int, ...]]
Notes = tuple[str, ...]
HEAD_DIM = 128  # of the attention of a language model's head
HYBRID_HEADS = 16  # of the released class, where no document tells


def below(shapes: Shapes, prefix: str) -> Shapes:
    """The tensors whose keys begin with a prefix, without it."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def document(found: Found | None, name: str) -> Mapping[str, Any]:
    """A JSON document beside a checkpoint; empty where there is none.

    Raises:
        UserError: for one that is not JSON.
    """
    if found is None:
        return {}
    path = (found.folder if found.folder.is_dir() else found.folder.parent) / name
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); download it again") from None


def tokenizer(shapes: Shapes, told: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Notes]:
    """`BinaryVAEConfig`'s fields.

    Args:
        shapes: of the tokenizer's tensors.
        told: ``ae_config.json``, whose ``ddconfig`` must agree with the shapes.
        where: the checkpoint's name in errors.

    Raises:
        UserError: if the document says other sizes than the tensors have.
    """
    hybrid = "encoder.register_token.weight" in shapes
    levels = _count(shapes, r"encoder\.down\.(\d+)\..*")
    channels, bits = shapes["encoder.conv_in.weight"][0], shapes["encoder.conv_out.weight"][0]
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    found = {
        "kind": "hybrid" if hybrid else "conv",
        "channels": channels,
        "multipliers": [width // channels for width in widths],
        "res_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\..*"),
        "z_channels": bits,
        "bit_groups": max(1, bits // 8),
        "attn_blocks": _count(shapes, r"encoder\.mid_attn_blocks\.(\d+)\..*"),
        "generative": shapes["decoder.conv_in.weight"][1] == 2 * bits,
    }
    inner = told.get("ddconfig", told.get("params", {}).get("ddconfig", told))
    names = {"ch": "channels", "ch_mult": "multipliers", "num_res_blocks": "res_blocks", "z_channels": "z_channels"}
    for theirs, ours in names.items():
        if inner.get(theirs, found[ours]) != found[ours]:
            raise UserError(f"{where}: its tensors have {theirs} {found[ours]}, but its document says {inner[theirs]}")
    if not hybrid:
        return found, ()
    heads = inner.get("n_heads", HYBRID_HEADS)
    notes = () if "n_heads" in inner else (f"{where}: heads of the tokenizer's attention taken as {heads}",)
    return {**found, "heads": heads}, notes


def generator(shapes: Shapes, bits: int) -> tuple[dict[str, Any], Notes]:
    """`BitDanceConfig`'s fields; `bits` of a code of the tokenizer."""
    width = shapes["emb_norm.weight"][0]
    channels, tokens = shapes["proj_in.w1.weight"][1], shapes["pos_for_diff.weight"][0]
    parallel = shapes["query_token"][1] + 1 if "query_token" in shapes else 1
    rows, side = shapes["cls_embedding.weight"], math.isqrt(tokens)
    head = below(shapes, "head.")
    found = {
        "width": width,
        "layers": _count(shapes, r"layers\.(\d+)\..*"),
        "heads": max(1, width // 64),
        "channels": channels,
        "patch": math.isqrt(channels // bits),
        "grid": [side, side],
        "classes": rows[0] - 1,
        "class_tokens": rows[1] // width,
        "parallel_num": parallel,
        "order": "raster" if parallel == 1 else "patch",
        "head": _head(head) | {"kind": "mlp" if parallel == 1 else "transformer", "repeat": 4},
    }
    told = "taken as released: heads of 64 channels" + ("" if parallel == 1 else ", tokens in square blocks")
    return found, (told,)


def flow_head(shapes: Shapes, told: Mapping[str, Any]) -> dict[str, Any]:
    """`FlowHeadConfig`'s fields of a language model's head; `told` by its document."""
    gated = "net.res_blocks.0.w1.weight" in shapes
    names = {
        **{"time_schedule": "time_schedule", "P_mean": "time_mean", "P_std": "time_deviation"},
        **{"time_shift": "time_shift", "diff_batch_mul": "repeat"},
    }
    known = {ours: told[theirs] for theirs, ours in names.items() if theirs in told}
    return _head(shapes) | {"kind": "transformer", "head_dim": HEAD_DIM, "squash": True, "gated": gated, **known}


def language_model(shapes: Shapes, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Notes]:
    """`DecoderConfig`'s fields; `settings` are its ``config.json``."""
    layer = "model.layers.0."
    rows, width = shapes["model.embed_tokens.weight"]
    head_dim = shapes[layer + "self_attn.q_norm.weight"][0]
    found = {
        "vocab_size": rows,
        "width": width,
        "ffn": shapes[layer + "mlp.gate_proj.weight"][0],
        "layers": _count(shapes, r"model\.layers\.(\d+)\..*"),
        "heads": shapes[layer + "self_attn.q_proj.weight"][0] // head_dim,
        "kv_heads": shapes[layer + "self_attn.k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "rope_theta": float(settings.get("rope_theta", 1e6)),
        "norm_eps": settings.get("rms_norm_eps", 1e-6),
        "qk_norm": "rmsnorm",
        "tied_embeddings": bool(settings.get("tie_word_embeddings", "lm_head.weight" not in shapes)),
    }
    notes = () if "rope_theta" in settings else ("no config.json tells rope_theta; taken as Qwen3's 1e6",)
    return found, notes


def _head(shapes: Shapes) -> dict[str, Any]:
    return {
        "width": shapes["net.input_proj.weight"][0],
        "depth": _count(shapes, r"net\.res_blocks\.(\d+)\..*"),
        "modulations": _count(shapes, r"net\.ada_ln_blocks\.(\d+)\..*"),
    }


def _count(shapes: Shapes, regex: str) -> int:
    numbers = {int(match[1]) for key in shapes if (match := re.fullmatch(regex, key))}
    return max(numbers, default=-1) + 1
