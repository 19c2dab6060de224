"""DualToken's pixel decoder by itself."""

import functools

import jax
import jax.numpy as jnp
from harness import Mutation, drop, nchw, nhwc

from unitok_jax.backbones import pixel_decoder
from unitok_jax.backbones.pixel_decoder import PixelDecoder, PixelDecoderConfig
from unitok_jax.backbones.pixel_decoder_rules import pixel_decoder_table
from unitok_jax.layers import conv


def check(case):
    net = case.config["decoder"]
    config = PixelDecoderConfig(
        latent_shape=tuple(case.config["interp"]) if case.config["interp"] else None,
        in_channels=case.config["post_quant"]["out_channels"],
        channels=net["ch"],
        multipliers=tuple(net["ch_mult"]),
        res_blocks=net["num_res_blocks"],
        attn_resolutions=tuple(net["attn_resolutions"]),
        resolution=net["resolution"],
        out_channels=net["out_ch"],
    )
    module = PixelDecoder(case.settings(config))
    z = jnp.asarray(nhwc(case.input("z")))
    params = case.params(pixel_decoder_table(), jax.eval_shape(module.init, jax.random.key(0), z)["params"])
    picture, aux = jax.jit(lambda params: module.apply({"params": params}, z))(params)
    case.compare("interp", nchw(aux["resized"]))
    case.compare("post_quant_conv", nchw(aux["post_quant_conv"]))
    case.compare("out", nchw(picture), rtol=1e-4)  # the README's


MUTATIONS = {
    "pixel_decoder": (
        Mutation("eps x 100", patch=(conv, "GroupNorm", functools.partial(conv.GroupNorm, epsilon=1e-4))),
        Mutation("no bias in the shortcut", params=drop("post_quant_conv/shortcut/bias")),
        Mutation("no resize", patch=(pixel_decoder, "resize", lambda x, shape: x)),
    ),
}
