"""Chameleon's VQGAN: every step of reading and writing a picture, and the gradient of its training loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, nchw, nhwc, swap

from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import vqgan_table
from unitok_jax.layers import conv
from unitok_jax.quantizers import nearest


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
    _compare_codes(case, vae, params, image)
    _compare_activations(case, vae, params, image)
    _compare_training(case, vae, params, image)


def _compare_codes(case, vae, params, image):
    latents, aux = vae.apply({"params": params}, image, method="encode")
    quantized = vae.apply({"params": params}, latents, method="quantize")
    case.compare("encoder_out", nchw(aux["encoder"]["conv_out"]))
    case.compare("pre_quant", nchw(latents))
    case.compare("indices", np.ravel(quantized.codes))
    case.compare("indices_bhw", quantized.codes)
    case.compare("z_q", nchw(quantized.latents))
    case.compare("emb_loss", vq_loss(case, quantized))
    distances = jnp.square(latents[..., None, :] - params["codebook"]["embedding"]).sum(-1)
    nearest_two = jnp.sort(distances.reshape(-1, distances.shape[-1]))[:, :2]
    case.compare("index_margin", nearest_two[:, 1] - nearest_two[:, 0], atol=1e-4)  # a difference of large numbers


def _compare_activations(case, vae, params, image):
    codes = jnp.asarray(case.expected("indices_bhw"), jnp.int32)
    _, encoded = vae.apply({"params": params}, image, method="encode")
    picture, decoded = vae.apply({"params": params}, codes, method="decode_codes")
    entries = vae.apply({"params": params}, codes, method="lookup")
    case.compare("codebook_entry", nchw(entries))
    case.compare("post_quant", nchw(decoded["post_quant_conv"]))
    case.compare("decoded", nchw(picture))
    exact = (np.clip(np.asarray(picture, np.float64), -1, 1) + 1) / 2 * 255
    # The README allows 1 off where the value before truncation sits on an integer.
    case.compare("decoded_uint8", exact.astype(np.uint8), where=np.abs(exact - np.round(exact)) > 1e-2)
    for name in case.matching(r"act\..*"):
        side, *path = name.removeprefix("act.").split(".")
        case.compare(name, nchw(_at({**encoded, **decoded}[side], path)))


def _at(aux, path):
    """The intermediate that upstream calls, say, ``down.0.block.1`` (here ``down_0``, ``block_1``)."""
    while path:
        name, *path = path
        if path and path[0].isdigit():
            name, path = f"{name}_{path[0]}", path[1:]
        aux = aux[name]
    return aux


def _compare_training(case, vae, params, image):
    def loss(params):
        picture, aux = vae.apply({"params": params}, image)
        return vq_loss(case, aux["quantized"]) + jnp.square(picture - image).mean(), picture

    (value, picture), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    case.compare("train.loss", value)
    case.compare("train.forward_rec", nchw(picture))
    case.compare_gradients(vqgan_table(), gradients)


def vq_loss(case, quantized):
    """The legacy placement of beta: on the term that moves the codebook."""
    assert case.config["legacy"]
    return (case.config["beta"] * nearest.codebook_loss(quantized) + nearest.commitment_loss(quantized)).mean()


MUTATIONS = {
    "vqgan_attn": (
        Mutation("eps x 10", patch=(conv, "GroupNorm", functools.partial(conv.GroupNorm, epsilon=1e-5))),
        Mutation("half the norm groups", config=lambda c: dataclasses.replace(c, groups=16)),
        Mutation("gelu for swish", patch=(conv.nn, "swish", jax.nn.gelu)),
        Mutation("swapped norms", params=swap("encoder/mid/block_1/norm1", "encoder/mid/block_1/norm2")),
        Mutation("no shortcut bias", params=drop("encoder/down_0/block_0/shortcut/bias")),
        Mutation("no attention output bias", params=drop("decoder/mid/attn_1/out/bias")),
        Mutation("normalised codes", config=lambda c: dataclasses.replace(c, l2_norm=True)),
        Mutation("other loss placement", patch=(nearest, "codebook_loss", nearest.commitment_loss)),
    )
}
