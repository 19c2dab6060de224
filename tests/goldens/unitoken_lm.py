"""A golden's UniToken, with or without its tower, and what its decoding sees along a path."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.backbones.siglip import SiglipConfig
from unitok_jax.backbones.taming_vae import VAEConfig
from unitok_jax.sampling.settings import Decoding, Sampling
from unitok_jax.systems.unitoken import decoding as machine
from unitok_jax.systems.unitoken.config import UniTokenConfig
from unitok_jax.systems.unitoken.system import UniToken
from unitok_jax.systems.unitoken.vocabulary import TokenIds, Vocabulary

IDS = TokenIds()


def load(case):
    """(system, params) of a case; what it has no weights for is missing from the params."""
    lm = _lm(case.config["llm"])
    vit = _vit(case.config["vit"]) if "vit" in case.config else SiglipConfig()
    vocabulary = Vocabulary(IDS, lm.vocab_size, encode=list, decode=str)
    system = UniToken(UniTokenConfig(lm, vit, VAEConfig(), canvases=_canvases(case.config, vit)), vocabulary)
    parts = ("lm", "vit", "adapter") if "vit" in case.config else ("lm",)
    table = system.artefacts["unitoken"] if "vit" in case.config else decoder_table(lm).under("", "lm/")
    abstract = jax.eval_shape(functools.partial(system.init, parts=parts), jax.random.key(0))
    return system, case.params(table, abstract)


def _lm(llm):
    return DecoderConfig(
        vocab_size=llm["vocab_size"],
        width=llm["hidden_size"],
        ffn=llm["intermediate_size"],
        layers=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["hidden_size"] // llm["num_attention_heads"],
        rope_theta=llm["rope_theta"],
        norm_eps=llm["rms_norm_eps"],
        qk_norm="layernorm",
        qk_norm_groups=llm["model_parallel_size"],
        swin_norm=llm["swin_norm"],
    )


def _canvases(config, vit):
    """(columns, rows) of tiles of each canvas; none in the base variant."""
    pinpoints = config.get("image_grid_pinpoints") or ()
    assert all(length % vit.image_size == 0 for canvas in pinpoints for length in canvas)
    return tuple((width // vit.image_size, height // vit.image_size) for width, height in pinpoints)


def _vit(vit):
    return SiglipConfig(
        width=vit["hidden_size"],
        ffn=vit["intermediate_size"],
        layers=vit["num_hidden_layers"],
        heads=vit["num_attention_heads"],
        image_size=vit["image_size"],
        patch_size=vit["patch_size"],
    )


def decoding(case, max_steps):
    """Arg-max in both modes, guided as the case says."""
    text, image = (Sampling(temperature=0.0, top_k=case.config.get(f"{mode}_top_k", 0)) for mode in ("text", "image"))
    return Decoding(text, image, guidance=case.config.get("cfg", 1.0), max_steps=max_steps)


def padded(rows):
    """Rows of ids, right-padded, as a batch."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    segments = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}


def predict(system, params, embeds):
    """Raw logits [S, V] at every position of one row [1, S, D], without a cache."""
    hidden = system.apply(params, "lm", embeds)[0]
    return system.apply(params, "lm", hidden, method="logits")[0, :, : system.vocabulary.size]


def predict_ids(system, params, ids):
    """`predict` of plain ids."""
    return predict(system, params, system.apply(params, "lm", jnp.asarray(ids)[None], method="embed_tokens"))


def replay(system, params, prompt, path, steps, how):
    """What decoding sees at some steps of a given path, from two plain forward passes.

    Returns:
        (conditional logits [n, V], unconditional ones (zeros where guidance does not act), state) of those steps.
    """
    ids = np.concatenate([prompt, path])
    begin = int(np.argmax(ids == IDS.boi))
    last = np.asarray(steps) + len(prompt) - 1
    conditional = predict_ids(system, params, ids)[last]
    prefixes = padded([ids[: i + 1] for i in last])
    state = machine.decode_init(system.grammar, prefixes, dataclasses.replace(how, guidance=1.0))
    unconditional = predict_ids(system, params, ids[begin:])[np.clip(last - begin, 0, None)]
    return conditional, jnp.where(state.in_codes[:, None], unconditional, 0.0), state
