"""Chameleon's VQGAN: every step of reading and writing a picture, and the gradient of its training loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from harness import FP32, Mutation, drop, nchw, nhwc, swap

from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import vqgan_table
from unitok_jax.layers import conv
from unitok_jax.quantizers import nearest

ONE_BLOCK = 3e-6  # tight enough to tell epsilons apart (they move the result by 1e-5; rounding by 7e-7)


def check(case):
    given = case.config["params"]
    net = given["ddconfig"]
    config = VAEConfig(
        channels=net["ch"],
        multipliers=tuple(net["ch_mult"]),
        res_blocks=net["num_res_blocks"],
        z_channels=net["z_channels"],
        embed_dim=given["embed_dim"],
        codebook_size=given["n_embed"],
        attn_resolutions=tuple(net["attn_resolutions"]),
        resolution=net["resolution"],
        in_channels=net["in_channels"],
        out_channels=net["out_ch"],
    )
    vae = TamingVAE(case.settings(config))
    image = jnp.asarray(nhwc(case.input("image")))
    abstract = jax.eval_shape(vae.init, jax.random.key(0), image)["params"]
    params = case.params(vqgan_table(), abstract)
    codes = jnp.asarray(case.expected("indices_bhw"), jnp.int32)
    # Compiled as a whole: operation by operation takes minutes. A new jit a case, as mutations patch what it traces.
    forward, written = jax.jit(functools.partial(_run, vae, case.config["beta"]))(params, image, codes)
    _compare_reading(case, params, forward)
    _compare_writing(case, forward, written)
    assert case.config["legacy"]
    case.compare("train.loss", forward["loss"])
    case.compare("train.forward_rec", nchw(forward["picture"]))
    if case.mutation is None:  # the forward pass tells mutations; the backward pass compiles for long
        gradients = jax.jit(jax.grad(lambda p: _train(vae, case.config["beta"], p, image)["loss"]))(params)
        case.compare_gradients(vqgan_table(), gradients)


def _run(vae, beta, params, image, codes):
    picture, aux = vae.apply({"params": params}, codes, method="decode_codes")
    entries = vae.apply({"params": params}, codes, method="lookup")
    return _train(vae, beta, params, image), {**aux, "picture": picture, "entries": entries}


def _train(vae, beta, params, image):
    picture, aux = vae.apply({"params": params}, image)
    quantized = aux["quantized"]
    moves = (beta * nearest.codebook_loss(quantized) + nearest.commitment_loss(quantized)).mean()
    loss = moves + jnp.square(picture - image).mean()
    return {**aux, "emb_loss": moves, "loss": loss, "picture": picture}


def _compare_reading(case, params, forward):
    quantized = forward["quantized"]
    case.compare("encoder_out", nchw(forward["encoder"]["conv_out"]))
    case.compare("pre_quant", nchw(forward["latents"]))
    case.compare("indices", np.ravel(quantized.codes))
    case.compare("indices_bhw", quantized.codes)
    case.compare("z_q", nchw(quantized.latents))
    case.compare("emb_loss", forward["emb_loss"])
    rows, latents = np.asarray(params["codebook"]["embedding"]), np.asarray(forward["latents"])
    distances = np.sort(np.square(latents.reshape(-1, 1, rows.shape[1]) - rows).sum(-1))
    case.compare("index_margin", distances[:, 1] - distances[:, 0])


def _compare_writing(case, forward, written):
    case.compare("codebook_entry", nchw(written["entries"]))
    case.compare("post_quant", nchw(written["post_quant_conv"]))
    case.compare("decoded", nchw(written["picture"]))
    exact = (np.clip(np.asarray(written["picture"], np.float64), -1, 1) + 1) / 2 * 255
    # The README allows 1 off where the value before truncation sits on an integer.
    case.compare("decoded_uint8", exact.astype(np.uint8), where=np.abs(exact - np.round(exact)) > 1e-2)
    sides = {"encoder": forward["encoder"], "decoder": written["decoder"]}
    for name in case.matching(r"act\..*"):
        side, *path = name.removeprefix("act.").split(".")
        tolerance = ONE_BLOCK if name == "act.encoder.down.0.block.0" else FP32
        case.compare(name, nchw(_at(sides[side], path)), tolerance)


def _at(aux, path):
    """The intermediate that upstream calls, say, ``down.0.block.1`` (here ``down_0``, ``block_1``)."""
    while path:
        name, *path = path
        if path and path[0].isdigit():
            name, path = f"{name}_{path[0]}", path[1:]
        aux = aux[name]
    return aux


MUTATIONS = {
    "vqgan": (
        Mutation("eps x 10", patch=(conv, "GroupNorm", functools.partial(conv.GroupNorm, epsilon=1e-5))),
        Mutation("gelu for swish", patch=(conv.nn, "swish", jax.nn.gelu)),
        Mutation("swapped norms", params=swap("encoder/mid/block_1/norm1", "encoder/mid/block_1/norm2")),
        Mutation("no shortcut bias", params=drop("encoder/down_0/block_0/shortcut/bias")),
        Mutation("normalised codes", config=lambda c: dataclasses.replace(c, l2_norm=True)),
    )
}
