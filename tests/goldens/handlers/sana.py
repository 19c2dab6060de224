"""Tar's diffusion de-tokenizer: SANA's transformer, its sampler, DC-AE, and the flow-matching loss."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import tar_parts
from flax.traverse_util import flatten_dict
from harness import Mutation, drop, nchw, nhwc, swap

from unitok_jax.backbones.dc_ae import DCAE, DCAEConfig
from unitok_jax.backbones.dc_ae_rules import dc_ae_table
from unitok_jax.backbones.sana import Sana, SanaConfig
from unitok_jax.backbones.sana_rules import sana_table
from unitok_jax.layers import linear_attention
from unitok_jax.sampling import flow
from unitok_jax.systems.tar.sana_detokenizer import TRAINED, SanaDrawing, draw_latents, flow_loss

FORWARD = {"rtol": 1e-4}


def check(case):
    config = case.settings(sana_config(case.config["transformer"]))
    vae = DCAE(vae_config(case.config["vae"]))
    model = Sana(config)
    latents = jnp.asarray(nhwc(case.input("latents")))
    condition = _condition(case)
    params = _params(case, model, latents, condition)
    _schedule(case)
    _forward(case, model, params, latents, condition)
    drawn = _sampling(case, config, params, latents, condition)
    encoded = _autoencoder(case, vae, drawn)
    _training(case, model, params, encoded * vae.config.scaling, condition)


def sana_config(given):
    return SanaConfig(
        channels=given["in_channels"],
        out_channels=given["out_channels"],
        heads=given["num_attention_heads"],
        head_dim=given["attention_head_dim"],
        cross_heads=given["num_cross_attention_heads"],
        cross_head_dim=given["cross_attention_head_dim"],
        layers=given["num_layers"],
        caption=given["caption_channels"],
        mlp_ratio=given["mlp_ratio"],
        attention_bias=given["attention_bias"],
        patch=given["patch_size"],
        eps=given["norm_eps"],
    )


def vae_config(given):
    sides = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_blocks"] = tuple(given[f"{side}_block_types"])
        sides[f"{side}_widths"] = tuple(given[f"{side}_block_out_channels"])
        sides[f"{side}_layers"] = tuple(given[f"{side}_layers_per_block"])
        sides[f"{side}_kernels"] = tuple(tuple(kernels) for kernels in given[f"{side}_qkv_multiscales"])
    return DCAEConfig(
        channels=given["in_channels"],
        latent=given["latent_channels"],
        head_dim=given["attention_head_dim"],
        upsample=given["upsample_block_type"],
        downsample=given["downsample_block_type"],
        decoder_activation=given["decoder_act_fns"],
        scaling=given["scaling_factor"],
        **sides,
    )


def _condition(case):
    model, params = tar_parts.load_ta_tok(case, tar_parts.ta_tok_config(case.config["ta_tok"]), "ta_tok.")
    codes = jnp.asarray(case.input("indices"), jnp.int32)
    condition = jax.jit(lambda p: model.apply({"params": p}, codes, method="decode_codes"))(params)
    case.compare("cond", condition, **FORWARD)
    return condition


def _params(case, model, latents, condition):
    times = jnp.zeros(len(latents))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), latents, condition, times)["params"])
    # A mutation's parameters are this part's.
    return case.params(sana_table(model.config), shapes, "transformer.")


def _schedule(case):
    for name in case.matching(r"sched_sigmas_\d+"):
        steps = int(name.rsplit("_", 1)[1])
        sigmas, timesteps = flow.sigma_grid(steps, case.config["scheduler"]["flow_shift"])
        case.compare(name, sigmas, rtol=0, atol=1e-6)
        case.compare(f"sched_timesteps_{steps}", timesteps)


def _forward(case, model, params, latents, condition):
    times = jnp.asarray(case.input("timestep"))
    run = jax.jit(lambda p, seen: model.apply({"params": p}, latents, condition, times, seen))
    half = np.arange(condition.shape[1]) < condition.shape[1] // 2
    velocity, aux = run(params, None)
    case.compare("caption_proj_norm", aux["caption"], **FORWARD)
    case.compare("time_embed6", aux["modulation"], **FORWARD)
    case.compare("embedded_timestep", aux["time"], **FORWARD)
    case.compare("block0_out", aux["blocks"][0], **FORWARD)
    case.compare("velocity", nchw(velocity), rtol=tar_parts.DEEP)
    masked, _ = run(params, jnp.broadcast_to(half, condition.shape[:2]))
    case.compare("velocity_masked", nchw(masked), rtol=tar_parts.DEEP)


def _sampling(case, config, params, latents, condition):
    negative = jnp.asarray(case.input("neg_embeds"))
    how = SanaDrawing(
        guidance=case.config["guidance_scale"], steps=case.config["steps"], shift=case.config["scheduler"]["flow_shift"]
    )
    draw = jax.jit(functools.partial(draw_latents, config), static_argnames="drawing")
    drawn, path = draw(params, condition, negative, latents, drawing=how)
    case.compare("sample_latents", nchw(drawn), rtol=1e-3)
    case.compare("sample_trajectory", _path(path), rtol=1e-3)
    plain, _ = draw(params, condition, negative, latents, drawing=dataclasses.replace(how, guidance=1.0))
    case.compare("sample_latents_nocfg", nchw(plain), rtol=1e-3)
    return drawn


def _path(path):
    """[steps, B, h, w, C] as the reference's [B, steps, C, h, w]."""
    return np.moveaxis(np.asarray(path).swapaxes(0, 1), -1, 2)


def _autoencoder(case, vae, drawn):
    images = jnp.asarray(nhwc(case.input("image")))
    shapes = jax.eval_shape(lambda: vae.init(jax.random.key(0), images)["params"])
    held, case.mutation = case.mutation, None  # a mutation's parameters are the transformer's
    params = case.params(dc_ae_table(), shapes, "vae.")
    case.mutation = held
    encode, decode = (jax.jit(lambda p, x, m=m: vae.apply({"params": p}, x, method=m)) for m in ("encode", "decode"))
    encoded = encode(params, images)
    case.compare("ae_latent", nchw(encoded), rtol=tar_parts.DEEP)
    case.compare("ae_decoded", nchw(decode(params, encoded)), rtol=1e-3)
    picture = np.clip(np.asarray(decode(params, drawn / vae.config.scaling)) / 2 + 0.5, 0, 1)
    case.compare("sample_image", nchw(picture), rtol=2e-3)
    return encoded


def _training(case, model, params, clean, condition):
    index = jnp.asarray(case.input("train_index"), jnp.int32)
    noise = jnp.asarray(nhwc(case.input("train_noise")))
    shift = case.config["scheduler"]["flow_shift"]
    sigma, timesteps = flow.training_sigmas(index, shift)
    case.compare("train_sigma", sigma, **FORWARD)
    case.compare("train_model_timestep", timesteps)
    case.compare("train_xt", nchw(flow.noised(clean, noise, sigma)), rtol=tar_parts.DEEP)
    mean = jax.jit(jax.value_and_grad(lambda p: flow_loss(model, p, clean, condition, index, noise, shift).mean()))
    loss, gradients = mean(params)
    case.compare("train_loss", loss, **FORWARD)
    flat = flatten_dict(gradients, sep="/")
    trained = {p: g for p, g in flat.items() if any(re.search(t, "sana/" + p) for t in TRAINED)}
    case.compare("train_grad_norm", tar_parts.global_norm(trained), rtol=tar_parts.GRADIENTS)
    case.compare_gradients(sana_table(model.config), gradients, norms="gradnorm/", full="grad/")


MUTATIONS = {
    "sana": (
        Mutation("eps x 1000", config=lambda c: dataclasses.replace(c, eps=1000 * c.eps)),
        Mutation("attentions exchanged", params=swap("attn2/q", "attn2/k")),
        Mutation("no depth bias", params=drop("ff/depth/bias")),
        Mutation("no modulation of the head", params=drop("^modulation")),
        Mutation(
            "relu left out",
            patch=(linear_attention.jax.nn, "relu", lambda x: x),
        ),
    )
}
