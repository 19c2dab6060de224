"""The binary tokenizers, hybrid and convolutional, at every size that a case has."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import uniwetok_models
from harness import Mutation, drop, nchw, nhwc, swap
from uniwetok_models import TOKENIZER, first_layer, load_tokenizer

from unitok_jax.backbones import binary_vae, decoder_block, grid_transformer
from unitok_jax.layers.grid import patch_raster
from unitok_jax.layers.rope import rotate
from unitok_jax.quantizers import binary


def check(case):
    given = case.config
    config = uniwetok_models.tokenizer_config(given["ddconfig"], given.get("gan_decoder", False), given["groups"])
    vae, params, _ = load_tokenizer(case, case.settings(config))
    told = (case.folder / "README.md").read_text()  # lists the sizes in the order in which they were encoded
    sizes = re.findall(r"`(\w+)\.image`", told)
    codes = {size: _check_size(case, size, vae, params) for size in sizes}
    if "vt_forward_ps" in case:
        order = [c[0].reshape(-1, c.shape[-1])[patch_raster(*c.shape[1:3], given["ps"])] for c in codes.values()]
        case.compare("vt_forward_ps", np.concatenate(order))
    if "grad.l1_loss" in case:
        _check_gradients(case, re.search(r"on resolution (\w+)", told)[1], vae, params)


def _check_size(case, size, vae, params):
    picture = jnp.asarray(nhwc(case.input(f"{size}.image")))
    noise = jnp.asarray(nhwc(case.input(f"{size}.decoder_noise"))) if f"{size}.decoder_noise" in case else None
    variables = {"params": params}
    capture = {"capture_intermediates": True, "mutable": ["intermediates"]}

    @jax.jit
    def run(picture, noise):
        (features, encoder), inside = vae.apply(variables, picture, keep=True, method="encode", **capture)
        codes = binary.signs(features)
        (written, decoder), _ = vae.apply(variables, codes, noise, keep=True, method="decode", **capture)
        return features, codes, written, encoder, decoder, inside["intermediates"]

    features, codes, written, encoder, decoder, inside = run(picture, noise)
    groups = vae.config.bit_groups
    case.compare(f"{size}.features", nchw(features), **TOKENIZER)
    case.compare(f"{size}.codes", nchw(codes))
    case.compare(f"{size}.indices", binary.to_indices(codes, groups))
    case.compare(f"{size}.recon", nchw(written), **TOKENIZER)
    if f"{size}.vt_forward" in case:
        case.compare(f"{size}.vt_forward", codes.reshape(-1, codes.shape[-1]))
    found = _encoder_maps(encoder, inside) | _decoder_maps(decoder)
    for name in case.matching(rf"{size}\.(enc|dec)_.*"):
        _compare_first(case, name, found[name.removeprefix(f"{size}.")])
    return codes


def _encoder_maps(aux, inside):
    maps = {
        "enc_conv_in": nchw(aux["conv_in"]),
        "enc_norm_out_in": nchw(aux["norm_in"]),
        "enc_norm_out": nchw(aux["norm_out"]),
        "enc_pre_sigmoid": nchw(aux["conv_out"]),
    }
    maps |= {f"enc_{name.replace('_', '')}_out": nchw(x) for name, x in aux.items() if name.startswith("down_")}
    if aux.get("transformer"):
        attention, block = first_layer(inside["encoder"]["transformer"]["layers"])
        maps |= {"enc_block0_attention_out": attention, "enc_block0_out": block}
        maps |= _tokens("enc", aux["transformer"])
    return maps


def _decoder_maps(aux):
    top = max(int(name.removeprefix("up_")) for name in aux if name.startswith("up_"))
    maps = {
        "dec_conv_in": nchw(aux["conv_in"]),
        "dec_mid_out": nchw(aux["mid"]),
        "dec_adaptive_top": nchw(aux[f"adaptive_{top}"]),
        "dec_norm_out": nchw(aux["norm_out"]),
    }
    maps |= {f"dec_up{level}_upsample": nchw(aux[f"up_{level}"]) for level in range(1, top + 1)}
    return maps | (_tokens("dec", aux["transformer"]) if aux.get("transformer") else {})


def _tokens(side, aux):
    table = jnp.stack([jnp.cos(aux["angles"]), jnp.sin(aux["angles"])], -1)
    return {f"{side}_rope_table": table, f"{side}_tokens_final": aux["tokens"]}


def _compare_first(case, name, ours):
    """Some maps are stored for the first picture alone, some with every 8th channel alone."""
    shape, ours = case.expected(name).shape, np.asarray(ours)
    if ours.shape[0] > shape[0]:
        ours = ours[: shape[0]]
    if ours.ndim == 4 and shape[1] < ours.shape[1]:
        ours = ours[:, :: ours.shape[1] // shape[1]]
    case.compare(name, ours, **TOKENIZER)


def _check_gradients(case, size, vae, params):
    picture = jnp.asarray(nhwc(case.input(f"{size}.image")))
    noise = jnp.asarray(nhwc(case.input(f"{size}.decoder_noise"))) if vae.config.generative else None

    def loss(params):
        written, _ = vae.apply({"params": params}, picture, noise)
        return jnp.mean(jnp.abs(written - picture))

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    case.compare("grad.l1_loss", value, **TOKENIZER)
    table = uniwetok_models.binary_vae_table(vae.config)
    case.compare_gradients(table, gradients, full="no values of gradients are stored")


MUTATIONS = {
    "tokenizer_hybrid_d32": (
        Mutation("one rule of positions", patch=(grid_transformer, "DECODER", grid_transformer.encoder_places)),
        Mutation("halves turned", patch=(decoder_block, "rotate", lambda x, cos, sin, _: rotate(x, cos, sin, "half"))),
        Mutation("norms of a block exchanged", params=swap("attention_norm", "mlp_norm")),
        Mutation("no registers", params=drop("encoder/transformer/registers")),
        Mutation("no shift of the adaptive norm", params=drop("adaptive_5/beta")),
        Mutation("epsilon x 1000", patch=(binary_vae, "EPSILON", 1e-3)),
    ),
}
