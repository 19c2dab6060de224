"""`config.model` read off published checkpoints: their tensors' shapes, and their ``config.json`` if there is one."""

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.systems.release import Found
from unitok_jax.weights.source import Source

HEADS = {1152: 16, 1024: 16, 768: 12}  # of SigLIP's towers by width: shapes do not tell
SIDES = {(14, 729): 384}  # of SigLIP's pictures by patch and positions, where a margin is not looked at

FIXED = {"patch": 1, "groups": 32}  # of every published VQGAN; ours may have others, which no shape of theirs tells


def lm_settings(found: Found) -> dict[str, Any]:
    """`config.model.lm` of a Chameleon in Hugging Face's or Meta's names."""
    meta = "tok_embeddings.weight" in found.source.keys()  # noqa: SIM118
    return {**(_meta_sizes(found) if meta else _decoder_sizes(found)), "qk_norm": "layernorm"}


def _decoder_sizes(found: Found) -> dict[str, Any]:
    source, settings = found.source, found.settings
    attention = "model.layers.0.self_attn."
    vocab, width = _shape(found, "model.embed_tokens.weight")
    head_dim = _shape(found, f"{attention}q_norm.weight")[-1]
    heads = _shape(found, f"{attention}q_proj.weight")[0] // head_dim
    layers, kv_heads = _count(source, r"model\.layers\.(\d+)\..*"), _shape(found, f"{attention}k_proj.weight")[0]
    rope = settings.get("rope_theta") or (settings.get("rope_parameters") or {}).get("rope_theta")
    return {
        "vocab_size": vocab,
        "width": width,
        "ffn": _shape(found, "model.layers.0.mlp.gate_proj.weight")[0],
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads // head_dim,
        "head_dim": head_dim,
        "qk_norm_groups": _groups(source, layers, heads, kv_heads // head_dim),
        "rope_theta": float(rope or 10000.0),
        "norm_eps": float(settings.get("rms_norm_eps", 1e-5)),
        "swin_norm": bool(settings.get("swin_norm", False)),
        "dropout": float(settings.get("dropout", 0.0)),
        "dtype": _compute_type(source.dtype("model.embed_tokens.weight")),
    }


def _groups(source: Source, layers: int, heads: int, kv_heads: int) -> int:
    """Rows of q and k norms that differ: as many as are stored, or fewer where a row a head is stored in equal runs."""
    stored = source.shape("model.layers.0.self_attn.q_norm.weight")[0]
    if stored != heads:
        return stored
    for groups in (g for g in range(1, heads) if heads % g == 0 and kv_heads % g == 0):
        names = [f"model.layers.{i}.self_attn.{n}_norm." for i in range(layers) for n in "qk"]
        if all(_in_runs(source.read(name + leaf), groups) for name in names for leaf in ("weight", "bias")):
            return groups
    return heads


def _in_runs(rows: np.ndarray, groups: int) -> bool:
    runs = np.asarray(rows).reshape(groups, -1, rows.shape[-1])
    return bool((runs == runs[:, :1]).all())


def _meta_sizes(found: Found) -> dict[str, Any]:
    vocab, width = _shape(found, "tok_embeddings.weight")
    head_dim = math.prod(_shape(found, "layers.0.attention.q_normalization.weight"))
    rows = {name: _shape(found, f"layers.0.attention.w{name}.weight")[0] for name in "qk"}
    settings = found.settings.get("model", found.settings)
    return {
        "vocab_size": vocab,
        "width": width,
        "ffn": _shape(found, "layers.0.feed_forward.w1.weight")[0],
        "layers": _count(found.source, r"layers\.(\d+)\..*"),
        "heads": rows["q"] // head_dim,
        "kv_heads": rows["k"] // head_dim,
        "head_dim": head_dim,
        "rope_theta": float(settings.get("rope_theta", 10000.0)),
        "norm_eps": float(settings.get("norm_eps", 1e-5)),
        "swin_norm": bool(settings.get("swin_norm", False)),
        "dtype": _compute_type(found.source.dtype("tok_embeddings.weight")),
    }


def vit_settings(found: Found, prefix: str) -> dict[str, Any]:
    """`config.model.vit`; the tower's keys begin with `prefix`."""
    settings = found.settings.get("vision_config", found.settings if prefix != "vit." else {})
    width, _, patch, _ = _shape(found, f"{prefix}embeddings.patch_embedding.weight")
    positions = _shape(found, f"{prefix}embeddings.position_embedding.weight")[0]
    side = settings.get("image_size") or SIDES.get((patch, positions), math.isqrt(positions) * patch)
    layers, ffn = _tower(found, prefix)
    return {
        "width": width,
        "ffn": ffn,
        "layers": layers,
        "heads": settings.get("num_attention_heads") or _known_heads(found, width),
        "image_size": side,
        "patch_size": patch,
        "pooling": f"{prefix}head.probe" in found.source.keys(),  # noqa: SIM118
        "eps": float(settings.get("layer_norm_eps", 1e-6)),
        "dtype": _compute_type(found.source.dtype(f"{prefix}embeddings.patch_embedding.weight")),
    }


def text_settings(found: Found) -> dict[str, Any]:
    """`config.model.text` of a whole SigLIP."""
    settings, prefix = found.settings.get("text_config", {}), "text_model."
    vocab, width = _shape(found, f"{prefix}embeddings.token_embedding.weight")
    layers, ffn = _tower(found, prefix)
    return {
        "width": width,
        "ffn": ffn,
        "layers": layers,
        "heads": settings.get("num_attention_heads") or _known_heads(found, width),
        "vocab_size": vocab,
        "max_length": _shape(found, f"{prefix}embeddings.position_embedding.weight")[0],
        "projection": _shape(found, f"{prefix}head.weight")[0],
        "eps": float(settings.get("layer_norm_eps", 1e-6)),
    }


def _tower(found: Found, prefix: str) -> tuple[int, int]:
    """(layers, feed-forward width)."""
    layers = _count(found.source, re.escape(prefix) + r"encoder\.layers\.(\d+)\..*")
    return layers, _shape(found, f"{prefix}encoder.layers.0.mlp.fc1.weight")[0]


def vqgan_settings(found: Found, prefix: str = "") -> dict[str, Any]:
    """`config.model.vqgan`; what shapes do not tell stands in ``vqgan.yaml``, else it is Chameleon's."""
    keys, down = set(found.source.keys()), f"{re.escape(prefix)}encoder\\.down\\."
    channels = _shape(found, f"{prefix}encoder.conv_in.weight")[0]
    levels = _count(found.source, down + r"(\d+)\..*")
    widths = [_shape(found, f"{prefix}encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    attends = [i for i in range(levels) if f"{prefix}encoder.down.{i}.attn.0.q.weight" in keys]
    embed_dim, z_channels = _shape(found, f"{prefix}quant_conv.weight")[:2]
    resolution = _yaml_number(found, "resolution", found.settings.get("vq_config", {}).get("resolution", 512))
    told = {key: _yaml_number(found, f"unitok_{key}", usual) for key, usual in FIXED.items()}
    own = {key: number for key, number in told.items() if number != FIXED[key]}
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "res_blocks": _count(found.source, down + r"0\.block\.(\d+)\..*"),
        "z_channels": z_channels,
        "embed_dim": embed_dim,
        "codebook_size": _shape(found, f"{prefix}quantize.embedding.weight")[0],
        "attn_resolutions": tuple(resolution // told["patch"] >> i for i in attends),
        "resolution": resolution,
        **own,
    }


def _yaml_number(found: Found, name: str, default: int) -> int:
    folder = found.folder if found.folder.is_dir() else found.folder.parent
    told = folder / "vqgan.yaml"
    match = re.search(rf"^\s*{name}:\s*(\d+)", told.read_text(), re.MULTILINE) if told.exists() else None
    return int(match[1]) if match else default


def _known_heads(found: Found, width: int) -> int:
    if width not in HEADS:
        raise UserError(
            f"{found.where}: the number of heads of a tower {width} wide is not in its shapes, and no config.json "
            "beside it tells; give --config RECIPE"
        )
    return HEADS[width]


def _compute_type(stored: np.dtype) -> str:
    """Weights kept in half a float are computed with in bfloat16."""
    return "bfloat16" if stored.itemsize == 2 else "float32"


def _shape(found: Found, key: str) -> tuple[int, ...]:
    if key not in found.source.keys():  # noqa: SIM118
        raise UserError(f"{found.where}: {key} missing in the checkpoint; download or export it again")
    return found.source.shape(key)


def _count(source: Source, regex: str) -> int:
    return 1 + max(_numbers(source.keys(), regex), default=-1)


def _numbers(keys: Iterable[str], regex: str) -> Iterable[int]:
    return (int(match[1]) for match in map(re.compile(regex).fullmatch, keys) if match)
