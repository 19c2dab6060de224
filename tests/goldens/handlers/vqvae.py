"""LlamaGen's VQ-VAE, which decodes Tar's autoregressive de-tokenizer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from harness import Mutation, drop, nchw, nhwc

from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import llamagen_table
from unitok_jax.quantizers import nearest


def check(case):
    given = case.config
    resolution, levels = case.expected("image").shape[-1], len(given["mult"])
    config = VAEConfig(
        channels=given["ch"],
        multipliers=tuple(given["mult"]),
        res_blocks=given["nrb"],
        z_channels=given["z_channels"],
        embed_dim=given["dim"],
        codebook_size=given["K"],
        attn_resolutions=(resolution >> (levels - 1),),
        resolution=resolution,
        l2_norm=given["vq_model_args"]["codebook_l2_norm"],
    )
    vae = TamingVAE(case.settings(config))
    image = jnp.asarray(nhwc(case.input("image")))
    abstract = jax.eval_shape(vae.init, jax.random.key(0), image)["params"]
    params = case.params(llamagen_table(levels), abstract)
    codes = jnp.asarray(case.expected("indices"), jnp.int32).reshape(len(image), -1, image.shape[2] // config.factor)
    # Compiled as a whole: operation by operation takes minutes. A new jit a case, as mutations patch what it traces.
    (picture, aux), (from_codes, _) = jax.jit(functools.partial(_run, vae))(params, image, codes)
    _compare_codes(case, params, aux)
    case.compare("post_quant", nchw(aux["post_quant_conv"]))
    case.compare("decoded", nchw(picture), rtol=5e-4)
    case.compare("decoded_from_code", nchw(from_codes), rtol=5e-4)
    exact = np.clip(np.asarray(from_codes, np.float64) * 0.5 + 0.5, 0, 1) * 255
    # Equal up to the tolerance of `decoded`: not where the value before truncation sits on an integer.
    case.compare("uint8", exact.astype(np.uint8), where=np.abs(exact - np.round(exact)) > 1e-2)


def _run(vae, params, image, codes):
    return vae.apply({"params": params}, image), vae.apply({"params": params}, codes, method="decode_codes")


def _compare_codes(case, params, aux):
    quantized = aux["quantized"]
    case.compare("enc_out", nchw(aux["encoder"]["conv_out"]))
    case.compare("pre_quant", nchw(aux["latents"]))
    case.compare("indices", quantized.codes.reshape(len(quantized.codes), -1))
    case.compare("quant", nchw(quantized.latents))
    case.compare("quant_entries", nchw(quantized.rows))
    cosines = (
        quantized.source @ nearest.lookup(params["codebook"]["embedding"], jnp.arange(case.config["K"]), l2_norm=True).T
    )
    best = jnp.sort(cosines.reshape(len(cosines), -1, cosines.shape[-1]))[..., -2:]
    case.compare("margin", best[..., 1] - best[..., 0])
    case.compare("loss_vq", nearest.codebook_loss(quantized).mean())
    beta = case.config["vq_model_args"]["commit_loss_beta"]
    case.compare("loss_commit", beta * nearest.commitment_loss(quantized).mean())


MUTATIONS = {
    "vqvae": (
        Mutation("plain codes", config=lambda c: dataclasses.replace(c, l2_norm=False)),
        Mutation("no attention bias", params=drop("decoder/up_2/attn_1/out/bias")),
        Mutation("no tail scale", params=drop("decoder/norm_out/scale")),
    )
}
