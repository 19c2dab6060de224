"""The files that UniWeTok's and BitDance's parts are written as."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from unitok_jax.backbones.binary_vae import BinaryVAEConfig
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.errors import UserError
from unitok_jax.systems.release import Layout
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.vocabulary import with_pictures


def layouts(system: Any, parts: Sequence[str], form: str) -> list[Layout]:
    """The artefacts that a run's parts are written as; see `systems.release.Release`.

    Raises:
        UserError: for a format that no code of the kind reads.
    """
    config: UniWeTokConfig = system.config
    if form == "transformers":
        if "lm" not in parts:
            raise UserError("--format transformers: it has the language model alone, which this run has not")
        return [_language_model(config, "`transformers.AutoModelForCausalLM.from_pretrained`")]
    if "generator" in parts:
        whole = "vae" in parts
        loads = "BitDance's class-conditional sampler: `--ckpt`" + ("" if whole else ", beside a tokenizer's file")
        return [Layout("c2i" if whole else "c2i_alone", file="model.pt", entry="ema", loads=loads)]
    if "lm" in parts:
        return [_language_model(config, "BitDance's text-to-image pipeline, on this folder"), *_beside(config, parts)]
    return [_tokenizer(config.vae)] if "vae" in parts else []


def _language_model(config: UniWeTokConfig, loads: str) -> Layout:
    documents = {"config.json": _json(_lm_document(config.decoder))}
    if config.vocabulary is not None:
        documents["tokenizer.json"] = with_pictures(config.vocabulary, config.vae.factor, config.parallel_num)
    return Layout("lm", documents=documents, loads=loads)


def _beside(config: UniWeTokConfig, parts: Sequence[str]) -> list[Layout]:
    """The other files of a text-to-image model."""
    made = {
        "vae": Layout(
            "tokenizer", file="ae.safetensors", documents={"ae_config.json": _json(_ae_document(config.vae))}
        ),
        "flow": Layout(
            "vision_head",
            file="vision_head.safetensors",
            documents={"vision_head_config.json": _json(_head_document(config))},
        ),
        "projector": Layout("projector", file="projector.safetensors"),
    }
    loads = "the same pipeline, which finds it in the folder"
    return [dataclasses.replace(layout, loads=loads) for part, layout in made.items() if part in parts]


def _tokenizer(vae: BinaryVAEConfig) -> Layout:
    """The hybrid as its training's container, which its class reads; an autoencoder as a flat file."""
    document = _json(_ae_document(vae))
    if vae.kind == "hybrid":
        loads = "UniWeTok's tokenizer class: the file is its training's container, the moving average included"
        documents = {"uniwetok_config.json": document}
        return Layout("tokenizer_container", file="uniwetok.ckpt", entry="state_dict", documents=documents, loads=loads)
    documents = {"ae_config.json": document}
    return Layout("tokenizer", file="ae.safetensors", documents=documents, loads="BitDance's autoencoder class")


def _ae_document(vae: BinaryVAEConfig) -> dict[str, Any]:
    inner = {
        **{"double_z": False, "z_channels": vae.z_channels, "in_channels": 3, "out_ch": 3, "ch": vae.channels},
        **{"ch_mult": list(vae.multipliers), "num_res_blocks": vae.res_blocks},
    }
    if vae.kind == "hybrid":
        inner |= {"resolution": 256, "attn_blocks": vae.attn_blocks, "n_heads": vae.heads}
    return {"ddconfig": inner, "gan_decoder": vae.generative}


def _head_document(config: UniWeTokConfig) -> dict[str, Any]:
    flow = config.flow
    return {
        "ch_target": config.vae.z_channels,
        "ch_cond": config.decoder.width,
        "ch_latent": flow.width,
        "depth_latent": flow.depth,
        "depth_adanln": flow.modulations,
        "parallel_num": config.parallel_num,
        "time_schedule": flow.time_schedule,
        "time_shift": flow.time_shift,
        "P_mean": flow.time_mean,
        "P_std": flow.time_deviation,
        "use_swiglu": flow.gated,
        "diff_batch_mul": flow.repeat,
    }


def _lm_document(lm: DecoderConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": lm.vocab_size,
        "hidden_size": lm.width,
        "intermediate_size": lm.ffn,
        "num_hidden_layers": lm.layers,
        "num_attention_heads": lm.heads,
        "num_key_value_heads": lm.kv_heads,
        "head_dim": lm.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": lm.norm_eps,
        "rope_theta": lm.rope_theta,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": lm.tied_embeddings,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
