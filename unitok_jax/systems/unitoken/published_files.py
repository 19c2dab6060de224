"""The files that UniToken's parts are written as, for its own code, Chameleon's and `transformers`."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.backbones.siglip_block import TowerConfig
from unitok_jax.systems.release import Layout
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.published_model import FIXED
from unitok_jax.systems.unitoken.stage_lm import LMOptions
from unitok_jax.systems.unitoken.vocabulary import TINY

IMAGE, RESERVED = "<image>", "<reserved08707>"  # transformers renames this token, which Chameleon left free


def layouts(system: Any, parts: Sequence[str], form: str) -> list[Layout]:
    """The artefacts that a run's parts are written as; see `systems.release.Release`."""
    written = _transformers(system, set(parts)) if form == "transformers" else _upstream(system, set(parts))
    return [_at_the_top(written[0]), *written[1:]] if len(written) == 1 else written


def _at_the_top(layout: Layout) -> Layout:
    """What is alone needs no folder of its own."""
    return dataclasses.replace(layout, folder="")


def _upstream(system: Any, parts: Collection[str]) -> list[Layout]:
    config: UniTokenConfig = system.config
    written = []
    if {"lm", "vit", "adapter"} <= set(parts):
        # What UniToken's own config.json does not tell, and an import of this one need not guess.
        variant = "anyres" if config.canvases else "base"
        told = {"unitoken_variant": variant, "unitoken_crop": config.image_size}
        told["vision_config"] = _vision_document(config)
        documents = {"config.json": _json({**_lm_document(system), **told})}
        text = "UniToken's code: `from_pretrained` of its own class on this folder"
        written.append(Layout("unitoken", documents=documents, loads=text))
    elif "lm" in parts:
        documents = {"config.json": _json(_lm_document(system))}
        written.append(Layout("lumina_mgpt", documents=documents, loads="Lumina-mGPT's code, on this folder"))
    if "vit" in parts and "adapter" not in parts:
        written.append(_siglip(config, parts))
    if "vqgan" in parts:
        text = "Chameleon's and UniToken's code: `vqgan.ckpt` with `vqgan.yaml` beside it"
        documents = {"vqgan.yaml": _vqgan_yaml(config)}
        written.append(Layout("vqgan", "tokenizer", "vqgan.ckpt", "state_dict", documents=documents, loads=text))
    return written


def _transformers(system: Any, parts: Collection[str]) -> list[Layout]:
    """Chameleon and SigLIP, which `transformers` has; it has no adapter and no picture decoder."""
    config: UniTokenConfig = system.config
    written = []
    if "lm" in parts:
        whole = "vqgan" in parts
        document = {**_lm_document(system), **_chameleon_document(config)}
        loads = "`transformers.ChameleonForConditionalGeneration.from_pretrained`"
        artefact = "chameleon" if whole else "chameleon_lm"
        written.append(Layout(artefact, documents={"config.json": _json(document)}, loads=loads))
    if "vit" in parts:
        written.append(_siglip(config, parts))
    return written


def _siglip(config: UniTokenConfig, parts: Collection[str]) -> Layout:
    vision, text = _vision_document(config), config.text
    if text is None or "text" not in parts:
        document = {"architectures": ["SiglipVisionModel"], **vision}
        loads = "`transformers.SiglipVisionModel.from_pretrained`"
        return Layout("siglip_vision", "siglip", documents={"config.json": _json(document)}, loads=loads)
    words = {
        **_tower_document(text, "siglip_text_model"),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_length,
        "projection_size": text.projection,
    }
    document = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": words,
        "vision_config": vision,
    }
    loads = "`transformers.SiglipModel.from_pretrained`"
    return Layout("siglip", "siglip", documents={"config.json": _json(document)}, loads=loads)


def _vision_document(config: UniTokenConfig) -> dict[str, Any]:
    return {
        **_tower_document(config.vit, "siglip_vision_model"),
        "image_size": config.vit.image_size,
        "patch_size": config.vit.patch_size,
        "vision_use_head": config.vit.pooling,
    }


def _tower_document(tower: TowerConfig, kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": tower.width,
        "intermediate_size": tower.ffn,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "layer_norm_eps": tower.eps,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_dropout": 0.0,
    }


def _lm_document(system: Any) -> dict[str, Any]:
    """``config.json`` of the decoder, in Hugging Face's names; the class is the one of Lumina-mGPT's code.

    How it was trained (the weight of the z-loss) is no part of a model: the released value stands there.
    """
    lm, ids = system.config.lm, system.vocabulary.ids
    return {
        "architectures": ["ChameleonXLLMXForConditionalGeneration"],
        "model_type": "chameleon",
        "vocab_size": lm.vocab_size,
        "hidden_size": lm.width,
        "intermediate_size": lm.ffn,
        "num_hidden_layers": lm.layers,
        "num_attention_heads": lm.heads,
        "num_key_value_heads": lm.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": lm.norm_eps,
        "rope_theta": lm.rope_theta,
        "max_position_embeddings": system.config.context,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "swin_norm": lm.swin_norm,
        "model_parallel_size": lm.qk_norm_groups,
        "tie_word_embeddings": lm.tied_embeddings,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.pad,
        "mask_image_logits": False,
        "dropout": lm.dropout,
        "z_loss_weight": LMOptions.z_loss,
    }


def _chameleon_document(config: UniTokenConfig) -> dict[str, Any]:
    """What ``ChameleonConfig`` has besides: the discrete encoder, and the ids by name."""
    vae = config.vqgan
    encoder = {
        "model_type": "chameleon_vqgan",
        "embed_dim": vae.embed_dim,
        "num_embeddings": vae.codebook_size,
        "latent_channels": vae.z_channels,
        "double_latent": False,
        "resolution": vae.resolution,
        "in_channels": vae.in_channels,
        "base_channels": vae.channels,
        "channel_multiplier": list(vae.multipliers),
        "num_res_blocks": vae.res_blocks,
        "attn_resolutions": list(vae.attn_resolutions) or None,
        "attn_type": "vanilla",
        "dropout": 0.0,
    }
    architectures = ["ChameleonForConditionalGeneration"]
    return {"architectures": architectures, "vq_config": encoder, "vocabulary_map": _names(config.vocabulary)}


def _names(vocabulary: str | None) -> dict[str, int]:
    """The text tokenizer's ids by name, with transformers' name for the token that stands for an image."""
    content = json.loads(Path(vocabulary or TINY).read_text())
    names = dict(content["model"]["vocab"])
    names |= {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    names[IMAGE] = names.pop(RESERVED, names["<pad>"])
    return names


def _vqgan_yaml(config: UniTokenConfig) -> str:
    vae = config.vqgan
    ours = "".join(f"unitok_{key}: {getattr(vae, key)}\n" for key, usual in FIXED.items() if getattr(vae, key) != usual)
    return f"""{ours}model:
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: {vae.embed_dim}
    n_embed: {vae.codebook_size}
    ddconfig:
      double_z: false
      z_channels: {vae.z_channels}
      resolution: {vae.resolution}
      in_channels: {vae.in_channels}
      out_ch: {vae.out_channels}
      ch: {vae.channels}
      ch_mult: {list(vae.multipliers)}
      num_res_blocks: {vae.res_blocks}
      attn_resolutions: {list(vae.attn_resolutions)}
      dropout: 0.0
    lossconfig:
      target: torch.nn.Identity
    ckpt_path: null
"""


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
