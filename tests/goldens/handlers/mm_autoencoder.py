"""Tar's whole way from a picture to a picture: codes, decoded features, the AR de-tokenizer's codes, the VQ-VAE."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tar_parts

from unitok_jax.backbones.taming_vae import TamingVAE, VAEConfig
from unitok_jax.backbones.taming_vae_rules import llamagen_table
from unitok_jax.sampling.settings import GREEDY
from unitok_jax.systems.tar.ar_detokenizer import ARDrawing, draw_codes


def check(case):
    model, tok = tar_parts.load_ta_tok(case, case.settings(tar_parts.ta_tok_config(case.config["ta_tok"])), "ta_tok.")
    config = tar_parts.ar_config(case.config["ar"])
    ar = tar_parts.load_ar(case, config, "ar.")
    vae = TamingVAE(vae_config(case.config["vq"], config.tokens))
    picture = jnp.zeros((1, 2 * vae.config.factor, 2 * vae.config.factor, 3))
    shapes = jax.eval_shape(lambda: vae.init(jax.random.key(0), picture)["params"])
    vq = case.params(llamagen_table(len(case.config["vq"]["mult"])), shapes, "vq.")

    images, scale = tar_parts.pictures(case), case.config["scale"]
    codes = jax.jit(lambda p: model.apply({"params": p}, images, scale, method="encode"))(tok)
    case.compare("indices", codes)
    how = ARDrawing(GREEDY, case.config["cfg_scale"])
    features, drawn, logits, decoded = _draw(model, config, vae, how, (tok, ar, vq), case.expected("indices"))
    case.compare("sad", features, rtol=1e-4)
    case.compare("ar_tokens", drawn)
    case.compare("ar_guided_logits", logits, rtol=tar_parts.DEEP)
    case.compare("decoded", np.moveaxis(decoded, -1, 1), rtol=tar_parts.DEEP)
    _compare_bytes(case, "output_uint8", decoded)
    other = _draw(model, config, vae, how, (tok, ar, vq), case.input("indices2"))[-1]
    _compare_bytes(case, "output2_uint8", other)


def vae_config(given, tokens):
    """As LlamaGen's: attention at the lowest resolution."""
    levels, side = len(given["mult"]), round(tokens**0.5)
    return VAEConfig(
        channels=given["ch"],
        multipliers=tuple(given["mult"]),
        res_blocks=given["nrb"],
        z_channels=given["z_channels"],
        embed_dim=given["dim"],
        codebook_size=given["K"],
        attn_resolutions=(side,),
        resolution=side << (levels - 1),
        l2_norm=True,
    )


def _draw(model, config, vae, how, params, codes):
    """(features, codes, guided logits, picture in [0, 1])."""
    tok, ar, vq = params

    @functools.partial(jax.jit)
    def run(tok, ar, vq, codes):
        features = model.apply({"params": tok}, codes, method="decode_codes")
        keys = jax.random.split(jax.random.key(0), len(codes))
        drawn, logits = draw_codes(config, ar, features, keys, how)
        side = round(config.tokens**0.5)
        picture, _ = vae.apply({"params": vq}, drawn.reshape(-1, side, side), method="decode_codes")
        return features, drawn, logits, picture * 0.5 + 0.5

    return tuple(map(np.asarray, run(tok, ar, vq, jnp.asarray(codes, jnp.int32))))


def _compare_bytes(case, name, picture):
    """Equal, but for values that sit on an integer before they are truncated (the tolerance of `decoded`)."""
    exact = np.clip(picture.astype(np.float64), 0, 1) * 255
    clear = np.abs(exact - np.round(exact)) > 1e-2
    case.compare(name, exact.astype(np.uint8), where=clear | (exact == 0) | (exact == 255))
