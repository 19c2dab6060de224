"""`config.model` read off Tar's published checkpoints: shapes, a ``config.json`` beside, the arguments in a pickle."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from unitok_jax.backbones.ar_image import SIZES
from unitok_jax.errors import UserError
from unitok_jax.systems.release import Found

ENCODER_HEADS = {1152: 16, 1024: 16, 768: 12}  # of SigLIP's towers by width: shapes do not tell
DECODER_HEADS = {1152: 12}  # a Siglip2 of default settings but for its width
PICTURES = {(14, 27): 384}  # (patch, grid) -> pixels, where a rest is cut off
SCALE_1 = 729  # codes of a released picture at pool scale 1: what the de-tokenizers have room for
NAME = re.compile(r"llama-abs-(\w+)")  # what an AR de-tokenizer's file calls its size

Settings = dict[str, Any]
Notes = tuple[str, ...]


class Shapes:
    """The shapes of a checkpoint by key, below a prefix.

    Raises:
        UserError: on looking up a key that is not there.
    """

    def __init__(self, found: Found, prefix: str = ""):
        keys = tuple(found.source.keys())
        self.where = found.where
        self._shapes = {key.removeprefix(prefix): found.source.shape(key) for key in keys if key.startswith(prefix)}

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def __getitem__(self, key: str) -> tuple[int, ...]:
        if key not in self._shapes:
            raise UserError(f"{self.where}: {key} missing in the checkpoint; download or export it again")
        return self._shapes[key]

    def count(self, regex: str) -> int:
        """One more than the largest number that stands in the keys' place."""
        found = (re.fullmatch(regex, key) for key in self._shapes)
        return 1 + max((int(match[1]) for match in found if match), default=-1)


def ta_tok_settings(found: Found, prefix: str) -> tuple[Settings, Notes]:
    """`config.model.ta_tok`; the tokenizer's keys begin with `prefix`."""
    shapes, told = Shapes(found, prefix), found.settings.get("args", {})
    codes = _inner(told, "bottleneck", "args", "regularizer", "args")
    encoder, notes = _tower(shapes, "encoder.", ENCODER_HEADS, 64)
    decoder, more = _tower(shapes, "decoder.vision_model.", DECODER_HEADS, 96)
    grid, size = _grid(shapes, "encoder."), shapes["encoder.embeddings.patch_embedding.weight"][-1]
    channels = shapes["decoder.vision_model.embeddings.patch_embedding.weight"][-1]
    side = told.get("input_size") or PICTURES.get((size, grid), size * grid)
    settings: Settings = {
        "encoder": {**encoder, "image_size": side, "patch_size": size},
        "decoder": {
            **{**decoder, "image_size": _grid(shapes, "decoder.vision_model."), "patch_size": 1},
            **{"channels": channels, "position_resize": "bilinear_antialias"},
        },
        "select_layer": told.get("select_layer_id", -2),
        "codebook_size": shapes["bottleneck.regularizer.embedding.weight"][0],
        "l2_norm": codes.get("l2_normalized", True),
        "temperature": codes.get("stochastic_temperature", 0.03),
    }
    return settings, (*notes, *more)


def _tower(shapes: Shapes, prefix: str, heads: Mapping[int, int], usual: int) -> tuple[Settings, Notes]:
    width = shapes[f"{prefix}post_layernorm.weight"][0]
    settings = {
        "width": width,
        "ffn": shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        "layers": shapes.count(re.escape(prefix) + r"encoder\.layers\.(\d+)\..*"),
        "heads": heads.get(width, max(1, width // usual)),
    }
    guessed = f"heads of {prefix.rstrip('.')}: {settings['heads']}, guessed from its width {width}"
    return settings, () if width in heads else (guessed,)


def _grid(shapes: Shapes, prefix: str) -> int:
    return math.isqrt(shapes[f"{prefix}embeddings.position_embedding.weight"][0])


def ar_settings(found: Found, condition_tokens: int) -> tuple[Settings, Notes]:
    """`config.model.ar`; the size's name and the arguments in the pickle say what shapes do not."""
    shapes, told = Shapes(found, "sd." if "sd.abs_pe" in found.source.keys() else ""), found.settings  # noqa: SIM118
    given, named = told.get("args", {}), NAME.fullmatch(str(told.get("name", "")))
    rows, width = shapes["abs_pe"][1:]
    layers = shapes.count(r"layers\.(\d+)\..*")
    size = (
        SIZES.get(named[1], ()) if named else next((s for s in SIZES.values() if (s[0], s[2]) == (layers, width)), ())
    )
    heads = given.get("n_head") or (size[1] if size else max(1, width // 64))
    tokens = rows - condition_tokens + 1
    if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
        raise UserError(
            f"{found.where}: {rows} positions are not {condition_tokens} of the condition and a square picture's; "
            "it belongs to another tokenizer, or give --config"
        )
    wqkv = shapes["layers.0.attention.wqkv.weight"][0]
    kv_heads = (wqkv * heads // width - heads) // 2
    settings = {
        **{"layers": layers, "heads": heads, "width": width, "kv_heads": None if kv_heads == heads else kv_heads},
        **{"ffn": shapes["layers.0.feed_forward.w1.weight"][0], "codes": shapes["tok_embeddings.weight"][0]},
        **{"condition": shapes["clip_proj.weight"][1], "condition_tokens": condition_tokens, "tokens": tokens},
        "multiple_of": int(given.get("multiple_of", 256)),
        "fixed_positions": bool(given.get("use_fixed_pe", False)),
        "norm_eps": float(given.get("norm_eps", 1e-5)),
    }
    guessed = f"heads of the de-tokenizer: {heads}, guessed from its width {width}"
    return settings, () if size or "n_head" in given else (guessed,)


def vq_settings(found: Found) -> Settings:
    """`config.model.vq` of LlamaGen's VQ-VAE, whose attention stands at the lowest resolution."""
    shapes = Shapes(found)
    levels = shapes.count(r"encoder\.conv_blocks\.(\d+)\..*")
    widths = [shapes[f"encoder.conv_blocks.{level}.res.0.conv2.weight"][0] for level in range(levels)]
    channels, side = shapes["encoder.conv_in.weight"][0], 16 * 2 ** (levels - 1)
    return {
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "res_blocks": shapes.count(r"encoder\.conv_blocks\.0\.res\.(\d+)\..*"),
        "z_channels": shapes["quant_conv.weight"][1],
        "embed_dim": shapes["quant_conv.weight"][0],
        "codebook_size": shapes["quantize.embedding.weight"][0],
        "attn_resolutions": (16,) if f"encoder.conv_blocks.{levels - 1}.attn.0.q.weight" in shapes else (),
        "resolution": side,
        "l2_norm": True,
    }


def lm_settings(found: Found) -> Settings:
    """`config.model.lm` of a Qwen2 with Tar's vocabulary."""
    shapes, told = Shapes(found), found.settings
    attention = "model.layers.0.self_attn."
    vocab, width = shapes["model.embed_tokens.weight"]
    query = shapes[f"{attention}q_proj.weight"][0]
    heads = told.get("num_attention_heads") or query // 128
    head_dim = told.get("head_dim") or query // heads
    rope = told.get("rope_theta") or _inner(told, "rope_parameters").get("rope_theta")
    return {
        **{"vocab_size": vocab, "width": width, "ffn": shapes["model.layers.0.mlp.gate_proj.weight"][0]},
        **{"layers": shapes.count(r"model\.layers\.(\d+)\..*"), "heads": heads, "head_dim": head_dim},
        "kv_heads": shapes[f"{attention}k_proj.weight"][0] // head_dim,
        **{"rope_theta": float(rope or 1e6), "norm_eps": float(told.get("rms_norm_eps", 1e-6)), "qkv_bias": True},
        "tied_embeddings": bool(told.get("tie_word_embeddings", "lm_head.weight" not in shapes)),
        "dtype": compute_type(found.source.dtype("model.embed_tokens.weight")),
    }


def sana_settings(found: Found) -> Settings:
    """`config.model.sana` of diffusers' ``SanaTransformer2DModel``."""
    shapes, told = Shapes(found), found.settings
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    head_dim = told.get("attention_head_dim", 32)
    cross = told.get("num_cross_attention_heads", 16)
    return {
        **{"channels": channels, "patch": patch, "head_dim": head_dim, "heads": width // head_dim},
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        **{"cross_heads": cross, "cross_head_dim": width // cross},
        "layers": shapes.count(r"transformer_blocks\.(\d+)\..*"),
        "caption": shapes["caption_projection.linear_1.weight"][1],
        "mlp_ratio": shapes["transformer_blocks.0.ff.conv_point.weight"][1] / width,
        "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in shapes,
        "eps": float(told.get("norm_eps", 1e-6)),
    }


DIFFUSERS = {  # our names of the autoencoder's settings -> diffusers'
    **{"channels": "in_channels", "latent": "latent_channels", "head_dim": "attention_head_dim"},
    **{"upsample": "upsample_block_type", "downsample": "downsample_block_type", "scaling": "scaling_factor"},
    **{f"{side}_{ours}": f"{side}_{theirs}" for side in ("encoder", "decoder") for ours, theirs in (
        ("blocks", "block_types"), ("widths", "block_out_channels"), ("layers", "layers_per_block"),
        ("kernels", "qkv_multiscales"),
    )},
}  # fmt: skip


def vae_settings(found: Found) -> Settings:
    """`config.model.vae` of diffusers' ``AutoencoderDC``: what its ``config.json`` says, the release's where it is
    silent."""
    return {ours: found.settings[theirs] for ours, theirs in DIFFUSERS.items() if theirs in found.settings}


def compute_type(stored: np.dtype) -> str:
    """Weights kept in half a float are computed with in bfloat16."""
    return "bfloat16" if stored.itemsize == 2 else "float32"


def _inner(values: Any, *names: str) -> Mapping[str, Any]:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}
