"""Chameleon's decoder: every layer's output, logits, loss, gradients, cache and left padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, swap

from unitok_jax.backbones import decoder_block
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.decoder_lm import MASKED, DecoderLM, decoder_cache, init_decoder
from unitok_jax.backbones.decoder_lm_rules import decoder_table
from unitok_jax.layers.rope import rope_angles, rotate

GRADIENTS = 1e-3  # the README's


def config_of(case):
    c = case.config
    return DecoderConfig(
        vocab_size=c["vocab_size"],
        width=c["hidden_size"],
        ffn=c["intermediate_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        head_dim=c["hidden_size"] // c["num_attention_heads"],
        rope_theta=c["rope_theta"],
        norm_eps=c["rms_norm_eps"],
        qk_norm="layernorm",
        qk_norm_groups=c["model_parallel_size"],
        swin_norm=c["swin_norm"],
    )


def check(case):
    config = case.settings(config_of(case))
    table = decoder_table(config)
    params = case.params(table, jax.eval_shape(lambda: init_decoder(config, jax.random.key(0))))
    model = DecoderLM(config)
    tokens = case.input("input_ids").astype(np.int32)
    check_rope(case, config, tokens.shape[1])
    check_inside(case, model, params, tokens)
    if case.mutation is None:  # the forward pass sees every mutation
        check_loss(case, model, table, params, tokens)
        check_cache(case, model, params, tokens)
        check_padded(case, model, params, tokens)


def check_rope(case, config, length):
    angles = rope_angles(np.arange(length)[None], config.head_dim, config.rope_theta)
    for name, function in (("rope_cos", np.cos), ("rope_sin", np.sin)):
        case.compare(name, np.concatenate([function(angles)] * 2, -1))


def check_inside(case, model, params, tokens):
    see_all = {"capture_intermediates": True, "mutable": "intermediates"}
    predict = jax.jit(lambda params: model.apply({"params": params}, tokens, method="predict", **see_all))
    logits, seen = predict(params)
    case.compare("logits", without_images(case, logits))
    seen = seen["intermediates"]
    layers = seen["layers"][f"span_0_{model.config.layers}"]
    (states, _), _ = layers["__call__"][0]
    embeds = params["embed"]["embedding"][tokens]
    for number, state in enumerate([embeds, *states[:-1], seen["final_norm"]["__call__"][0]]):
        case.compare(f"hidden_states.{number}", state)
    for name in ("q_norm", "k_norm"):
        heads = layers["attention"][name]["__call__"][0][0]
        case.compare(f"layer0.{name}", heads.reshape(-1, *heads.shape[2:]))
    case.compare("layer0.attn_out", layers["attention"]["out"]["__call__"][0][0])
    case.compare("layer0.mlp_out", layers["mlp"]["__call__"][0][0])


def check_loss(case, model, table, params, tokens):
    labels = case.input("labels")[:, 1:]

    @jax.jit
    @jax.value_and_grad
    def mean_loss(params):
        logits = without_images(case, model.apply({"params": params}, tokens[:, :-1], method="predict"))
        logs = jax.nn.log_softmax(logits)
        nll = -jnp.take_along_axis(logs, np.maximum(labels, 0)[..., None], -1)[..., 0]
        return jnp.where(labels >= 0, nll, 0).sum() / (labels >= 0).sum()

    loss, gradients = mean_loss(params)
    case.compare("loss", loss)
    case.compare_gradients(table, gradients, rtol=GRADIENTS)


def check_cache(case, model, params, tokens):
    rows, length = tokens.shape

    @jax.jit
    def advance(tokens, cache):
        embeds = model.apply({"params": params}, tokens, method="embed_tokens")
        hidden, aux = model.apply({"params": params}, embeds, cache=cache)
        return model.apply({"params": params}, hidden[:, -1:], method="logits"), aux["cache"]

    logits, cache = advance(tokens[:, : length // 2], decoder_cache(model.config, rows, length))
    steps = [logits]
    for at in range(length // 2, length):
        logits, cache = advance(tokens[:, at : at + 1], cache)
        steps.append(logits)
    case.compare("cached_logits", without_images(case, jnp.concatenate(steps, 1)))


def check_padded(case, model, params, tokens):
    seen = case.input("padded.attention_mask").astype(np.int32)
    positions = case.input("padded.position_ids").astype(np.int32)
    reading = {"positions": positions, "segments": seen}
    predict = jax.jit(lambda params: model.apply({"params": params}, tokens, method="predict", **reading))
    logits = without_images(case, predict(params))
    assert np.isfinite(logits).all()
    case.compare("padded.logits", logits, where=seen[..., None] != 0)


def without_images(case, logits):
    """The logits of the ids that exist, those of image ids masked where the case masks them."""
    size = case.config["vocab_size"]
    images = [i for name, i in case.config["vocabulary_map"].items() if name.startswith("IMGIMG")]
    masked = np.isin(np.arange(size), images) & case.config["mask_image_logits"]
    return jnp.where(masked, MASKED, logits[..., :size])


def _changed(**fields):
    return lambda config: dataclasses.replace(config, **fields)


MUTATIONS = {
    "chameleon_lm": (
        Mutation("eps x 10", config=lambda config: dataclasses.replace(config, norm_eps=10 * config.norm_eps)),
        Mutation("another rope base", config=_changed(rope_theta=5000.0)),
        Mutation("norms on the other side", config=lambda c: dataclasses.replace(c, swin_norm=not c.swin_norm)),
        Mutation("q and k norms exchanged", params=swap("q_norm", "k_norm")),
        Mutation("layer norms exchanged", params=swap("attention_norm", "mlp_norm")),
        Mutation("no bias in the q norm", params=drop(r"q_norm/bias")),
        Mutation(
            "interleaved rope",
            patch=(decoder_block, "rotate", lambda x, cos, sin, _: rotate(x, cos, sin, "interleaved")),
        ),
    )
}
