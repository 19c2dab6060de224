"""The taming VAE: its two published settings, its parts, and what the goldens do not show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from unitok_jax.backbones.taming_vae import SHARDING, TamingVAE, VAEConfig
from unitok_jax.parallel.rules import param_shardings
from unitok_jax.quantizers import nearest

RNG = np.random.default_rng(0)
TINY = VAEConfig(
    channels=4,
    multipliers=(1, 2),
    res_blocks=1,
    z_channels=3,
    embed_dim=2,
    codebook_size=9,
    resolution=8,
    groups=2,
    patch=2,
)
IMAGES = RNG.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
CHAMELEON = VAEConfig()
LLAMAGEN = VAEConfig(embed_dim=8, codebook_size=16384, attn_resolutions=(16,), resolution=256, l2_norm=True)


@functools.cache
def shapes_of(config, side=32):
    image = jax.ShapeDtypeStruct((1, side, side, config.in_channels), jnp.float32)
    return jax.eval_shape(TamingVAE(config).init, jax.random.key(0), image)["params"]


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32) * 0.3, shapes_of(TINY))


@pytest.fixture(scope="module")
def whole(params):
    return jax.jit(TamingVAE(TINY).apply)({"params": params}, IMAGES)


def attentions(config):
    return {path.rsplit("/", 2)[0] for path in flatten_dict(shapes_of(config), sep="/") if "/attn_" in path}


def test_attention_stands_where_the_published_models_have_it():
    middles = {"encoder/mid/attn_1", "decoder/mid/attn_1"}
    assert attentions(CHAMELEON) == middles
    encoder = {f"encoder/down_4/attn_{j}" for j in range(2)}
    decoder = {f"decoder/up_4/attn_{j}" for j in range(3)}
    assert attentions(LLAMAGEN) == middles | encoder | decoder


def test_published_sizes():
    assert CHAMELEON.factor == LLAMAGEN.factor == 16
    chameleon = flatten_dict(shapes_of(CHAMELEON), sep="/")
    assert chameleon["decoder/up_4/block_2/conv2/kernel"].shape == (3, 3, 512, 512)
    assert chameleon["codebook/embedding"].shape == (8192, 256)
    assert "decoder/up_0/upsample/kernel" not in chameleon and "encoder/down_4/downsample/kernel" not in chameleon


def test_shapes_and_parts(params, whole):
    vae, (picture, aux) = TamingVAE(TINY), whole
    assert TINY.factor == 4 and picture.shape == IMAGES.shape and aux["latents"].shape == (2, 2, 3, 2)
    codes = aux["quantized"].codes
    assert codes.shape == (2, 2, 3) and codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, nearest.search(aux["latents"], params["codebook"]["embedding"]))
    again, _ = jax.jit(lambda p, c: vae.apply({"params": p}, c, method="decode_codes"))(params, codes)
    np.testing.assert_allclose(again, picture, atol=1e-5)


def test_each_side_needs_its_own_parameters_only(params, whole):
    vae, (_, aux) = TamingVAE(TINY), whole
    reading = {name: params[name] for name in ("encoder", "quant_conv")}
    latents, _ = jax.jit(lambda p: vae.apply({"params": p}, IMAGES, method="encode"))(reading)
    np.testing.assert_allclose(latents, aux["latents"], atol=1e-6)
    writing = {name: params[name] for name in ("decoder", "post_quant_conv", "codebook")}
    jax.eval_shape(lambda p: vae.apply({"params": p}, aux["quantized"].codes, method="decode_codes"), writing)


def test_gradients_reach_the_encoder_through_the_codes(params):
    def loss(p):
        picture, aux = TamingVAE(TINY).apply({"params": p}, IMAGES)
        return jnp.square(picture - IMAGES).mean() + nearest.codebook_loss(aux["quantized"]).mean()

    gradients = flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    still = {path for path, leaf in gradients.items() if not np.abs(leaf).max() > 0}
    assert still == set()


def test_half_precision_keeps_codes_and_pictures_in_float32(params):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    picture, aux = jax.eval_shape(lambda p: TamingVAE(config).apply({"params": p}, IMAGES), params)
    assert picture.dtype == aux["latents"].dtype == aux["quantized"].latents.dtype == jnp.float32
    assert aux["encoder"]["conv_in"].dtype == aux["decoder"]["conv_out"].dtype == jnp.bfloat16


@pytest.mark.parametrize("config", [TINY, LLAMAGEN])
def test_every_parameter_has_one_sharding_rule(config):
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    param_shardings(SHARDING, shapes_of(config), mesh)
    param_shardings(SHARDING, {"vqgan": shapes_of(config)}, mesh)
