"""The files that Tar's parts are written as, for its own code, `transformers` and `diffusers`."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from unitok_jax.backbones.ar_image import SIZES, ARImageConfig
from unitok_jax.backbones.dc_ae import DCAEConfig
from unitok_jax.backbones.sana import SanaConfig
from unitok_jax.systems.qwen_tokenizer import tokenizer_file
from unitok_jax.systems.release import Layout
from unitok_jax.systems.tar.config import TarConfig
from unitok_jax.systems.tar.published_model import DIFFUSERS
from unitok_jax.systems.tar.ta_tok import TATokConfig
from unitok_jax.systems.tar.vocabulary import TINY, TokenIds, Vocabulary

QWEN = "`transformers.Qwen2ForCausalLM.from_pretrained` and Tar's scripts, on this folder"


def layouts(system: Any, parts: Sequence[str], form: str) -> list[Layout]:
    """The artefacts that a run's parts are written as; see `systems.release.Release`.

    ``transformers`` has the language model (and, in diffusers, SANA and its autoencoder) alone.
    """
    config: TarConfig = system.config
    made = []
    if "lm" in parts:
        documents = {"config.json": _json(_lm(config, system.vocabulary.ids)), "tokenizer.json": _tokenizer(system)}
        made.append(Layout("tar", "lm", documents=documents, loads=QWEN))
    if "ta_tok" in parts and form == "upstream":
        beside = {"args": _ta_tok_arguments(config.ta_tok)}
        loads = "Tar's `TextAlignedTokenizer.from_checkpoint`"
        made.append(Layout("ta_tok", file="ta_tok.pth", entry="model.sd", beside=beside, loads=loads))
    if "ar" in parts and form == "upstream" and config.ar is not None:
        name = f"ar_dtok_{config.ar_side}px.pth"
        made.append(
            Layout("ar", file=name, entry="model.sd", beside=ar_arguments(config.ar), loads="Tar's `MMAutoEncoder`")
        )
    if "vq" in parts and form == "upstream":
        made.append(Layout("vq", file="vq_ds16_t2i.pt", entry="model", loads="LlamaGen's VQ-VAE"))
    if "sana" in parts:
        documents = {"config.json": _json(_sana(config.sana, config))}
        loads = "`diffusers.SanaTransformer2DModel.from_pretrained`"
        made.append(Layout("sana", "transformer", documents=documents, loads=loads))
    if "vae" in parts:
        documents = {"config.json": _json(_vae(config.vae))}
        made.append(Layout("vae", "vae", documents=documents, loads="`diffusers.AutoencoderDC.from_pretrained`"))
    if "negative" in parts and form == "upstream":
        made.append(Layout("negative", file="negative_prompt_embeds.pth", entry="", loads="Tar's `t2i_inference_sana`"))
    return made


def _lm(config: TarConfig, ids: TokenIds) -> dict[str, Any]:
    """``config.json`` in Hugging Face's names, with the ids that Tar's code writes into it."""
    lm = config.lm
    assert lm is not None
    return {
        **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"},
        **{"vocab_size": lm.vocab_size, "hidden_size": lm.width, "intermediate_size": lm.ffn},
        **{"num_hidden_layers": lm.layers, "num_attention_heads": lm.heads, "num_key_value_heads": lm.kv_heads},
        **{"head_dim": lm.head_dim, "rms_norm_eps": lm.norm_eps, "rope_theta": lm.rope_theta, "rope_scaling": None},
        **{"tie_word_embeddings": lm.tied_embeddings, "use_sliding_window": False, "max_position_embeddings": 32768},
        **{"bos_token_id": ids.end_of_text, "eos_token_id": ids.turn_end, "pad_token_id": ids.end_of_text},
        **{"image_start_tag_id": ids.image_start, "image_end_tag_id": ids.image_end},
        **{"scale_start_token_id": ids.scale, "scale_end_token_id": ids.scale + ids.scales - 1},
        **{"num_scale_tokens": ids.scales, "num_image_tokens": ids.codes, "image_start_token_id": ids.code_offset},
        **{"image_end_token_id": ids.size - 1, "num_new_tokens": ids.codes + ids.scales + 2},
    }


def _tokenizer(system: Any) -> str:
    """The text tokenizer with the tags, the scales and the codes, whose ids follow its own."""
    config, words = system.config, system.vocabulary
    tokenizer = Tokenizer.from_str((tokenizer_file(config.vocabulary) if config.vocabulary else TINY).read_text())
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<im_start>", "<im_end>")])
    tokenizer.add_tokens(_plain(words))
    return tokenizer.to_str()


def _plain(words: Vocabulary) -> list[AddedToken]:
    names = [*(f"<S{k}>" for k in range(words.ids.scales)), *(f"<I{code}>" for code in range(words.ids.codes))]
    return [AddedToken(name, special=False, normalized=False) for name in names]


def _ta_tok_arguments(config: TATokConfig) -> dict[str, Any]:
    """The constructor's arguments that Tar's loader takes from the file; those it ignores are left out."""
    codes = {
        **{"codebook_size": config.codebook_size, "l2_normalized": config.l2_norm, "stochastic": True},
        **{"stochastic_temperature": config.temperature, "commitment_loss_weight": 0.25, "codebook_loss_weight": 1.0},
    }
    bottleneck = {
        **{"bottleneck_dim": config.decoder.channels, "norm": "none"},
        "regularizer": {"name": "simvq", "args": codes},
    }
    return {
        "bottleneck": {"name": "bottleneck", "args": bottleneck},
        "bottleneck_token_num": config.encoder.grid**2,
        "input_size": config.encoder.image_size,
        "teacher": "google/siglip2-so400m-patch14-384",
        **{"pool_scale": 1, "decoder_depth": config.decoder.layers, "select_layer_id": config.select_layer},
    }


def ar_arguments(config: ARImageConfig) -> dict[str, Any]:
    """What ``ar_dtok_*.pth`` says of its model: a registered name and the settings that Tar's function of it takes."""
    sizes = {size: name for name, size in SIZES.items()}
    name = sizes.get((config.layers, config.heads, config.width))
    # Tar's registered functions give a size's own numbers themselves and take no second ones.
    own = {} if name else {"dim": config.width, "n_layer": config.layers, "n_head": config.heads}
    arguments = {
        **own,
        **{
            "n_kv_head": config.kv_heads,
            "multiple_of": config.multiple_of,
            "vocab_size": config.codes,
            "cond_dim": config.condition,
        },
        **{"cls_token_num": config.condition_tokens, "max_seq_len": config.tokens, "model_type": "clip_cond"},
        **{"norm_eps": config.norm_eps, "use_fixed_pe": config.fixed_positions},
    }
    return {"name": f"llama-abs-{name}" if name else "llama-abs", "args": arguments}


def _sana(sana: SanaConfig | None, config: TarConfig) -> dict[str, Any]:
    assert sana is not None and config.vae is not None
    return {
        **{"_class_name": "SanaTransformer2DModel", "in_channels": sana.channels, "out_channels": sana.out_channels},
        **{"num_attention_heads": sana.heads, "attention_head_dim": sana.head_dim, "num_layers": sana.layers},
        **{"num_cross_attention_heads": sana.cross_heads, "cross_attention_head_dim": sana.cross_head_dim},
        **{"cross_attention_dim": sana.width, "caption_channels": sana.caption, "mlp_ratio": sana.mlp_ratio},
        **{"attention_bias": sana.attention_bias, "patch_size": sana.patch, "norm_eps": sana.eps},
        **{"sample_size": config.sana_size // config.vae.factor, "norm_elementwise_affine": False},
        "interpolation_scale": None,
    }


def _vae(vae: DCAEConfig | None) -> dict[str, Any]:
    assert vae is not None
    told = {theirs: getattr(vae, ours) for ours, theirs in DIFFUSERS.items()}
    return {"_class_name": "AutoencoderDC", **told, "decoder_act_fns": vae.decoder_activation}


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
