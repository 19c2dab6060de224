"""SigLIP's towers: what the goldens do not show (cuts, taps, other sizes, the text tower, sharding, bad settings)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from unitok_jax.backbones import siglip, siglip_positions, siglip_text
from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.backbones.siglip_text import SiglipText, SiglipTextConfig
from unitok_jax.errors import UserError
from unitok_jax.parallel.rules import param_shardings

RNG = np.random.default_rng(0)
TINY = SiglipConfig(width=8, ffn=12, layers=4, heads=2, image_size=7, patch_size=2, cuts=(1, 3))
TEXT = SiglipTextConfig(width=8, ffn=12, layers=2, heads=2, vocab_size=11, max_length=5, projection=6)
IMAGES = RNG.uniform(-1, 1, (2, 7, 7, 3)).astype(np.float32)


def random_params(model, *args):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32) * 0.5, shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(SiglipVision(TINY), IMAGES)


@pytest.fixture(scope="module")
def whole(params):
    run = jax.jit(SiglipVision(TINY).apply, static_argnames="every_layer")
    return run({"params": params}, IMAGES, every_layer=True)


def joined(params):
    """The same parameters in one span."""
    spans = [params["layers"][f"span_{a}_{b}"] for a, b in TINY.spans]
    return {**params, "layers": {"span_0_4": jax.tree.map(lambda *leaves: np.concatenate(leaves), *spans)}}


@pytest.mark.parametrize("change", [{}, {"remat": True}, {"unroll": 2}])
def test_cuts_remat_and_unroll_change_no_number(params, whole, change):
    config = dataclasses.replace(TINY, cuts=(), **change)
    last, aux = jax.jit(SiglipVision(config).apply)({"params": joined(params)}, IMAGES)
    np.testing.assert_allclose(last, whole[0], atol=1e-5)
    np.testing.assert_allclose(aux["pooled"], whole[1]["pooled"], atol=1e-5)


@pytest.mark.slow
def test_remat_has_the_same_gradient(params):
    def gradient(config):
        return jax.jit(jax.grad(lambda p: jnp.square(SiglipVision(config).apply({"params": p}, IMAGES)[0]).sum()))(
            params
        )

    plain, again = gradient(TINY), gradient(dataclasses.replace(TINY, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_taps_are_the_layers_where_spans_end(whole):
    _, aux = whole
    assert aux["layers"].shape == (4, 2, 9, 8)
    for name, layer in (("span_0_1", 0), ("span_1_3", 2), ("span_3_4", 3)):
        np.testing.assert_array_equal(aux["spans"][name], aux["layers"][layer])


def test_features_may_be_replaced_between_spans(params, whole):
    tower, last = SiglipVision(TINY), whole[0]

    @jax.jit
    def in_parts(params, change):
        x = tower.apply({"params": params}, IMAGES, method="embed")
        x, _ = tower.apply({"params": params}, x, 0, 3, method="run")
        x, aux = tower.apply({"params": params}, x + change, 3, 4, method="run")
        assert set(aux["spans"]) == {"span_3_4"}
        return tower.apply({"params": params}, x, method="finish")[0]

    np.testing.assert_allclose(in_parts(params, 0.0), last, atol=1e-5)
    assert np.abs(in_parts(params, RNG.normal(size=(2, 9, 8))) - last).max() > 1e-2


def test_pixels_beyond_the_last_whole_patch_are_not_seen(params, whole):
    changed = IMAGES.copy()
    changed[:, 6:] = changed[:, :, 6:] = 9
    tower = SiglipVision(TINY)
    embedded = tower.apply({"params": params}, changed, method="embed")
    np.testing.assert_allclose(embedded, whole[1]["embeddings"], atol=1e-5)


def test_patches_are_a_convolution(params):
    patch, table = params["embeddings"]["patch"], params["embeddings"]["position"]["embedding"]
    embedded = SiglipVision(TINY).apply({"params": params}, IMAGES, method="embed")
    for row in range(3):
        for column in range(3):
            pixels = IMAGES[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected = np.einsum("bijc,ijcd->bd", pixels, patch["kernel"]) + patch["bias"] + table[3 * row + column]
            np.testing.assert_allclose(embedded[:, 3 * row + column], expected, atol=1e-5)


def test_without_a_pooling_head():
    config = dataclasses.replace(TINY, pooling=False)
    shapes = jax.eval_shape(SiglipVision(config).init, jax.random.key(0), IMAGES)["params"]
    assert set(shapes) == {"embeddings", "layers", "post_norm"}


@pytest.mark.parametrize("method", siglip_positions.METHODS)
@pytest.mark.parametrize(("size", "out"), [(4, 7), (7, 4), (5, 5), (3, 1)])
def test_resize_keeps_a_flat_table_flat(method, size, out):
    weights = siglip_positions.METHODS[method](out, size)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


def test_resize_to_its_own_grid_changes_nothing():
    table = RNG.normal(size=(16, 3)).astype(np.float32)
    for method in siglip_positions.METHODS:
        np.testing.assert_array_equal(siglip_positions.resize(jnp.asarray(table), (4, 4), method), table)


def test_bicubic_by_hand():
    """Half-way between two of four samples, the taps of a = -0.75; at the edge the outer taps fall on the border."""
    weights = siglip_positions.bicubic(8, 4)  # samples at -0.25, 0.25, 0.75, ...
    near, far = 0.25, 0.75
    inner, outer = np.poly1d([1.25, -2.25, 0, 1]), -0.75 * np.poly1d([1, -5, 8, -4])
    taps = [outer(1 + far), inner(far), inner(near), outer(1 + near)]
    np.testing.assert_allclose(weights[0], [taps[0] + taps[1] + taps[2], taps[3], 0, 0])
    np.testing.assert_allclose(weights[2], [taps[0] + taps[1], taps[2], taps[3], 0])
    np.testing.assert_allclose(weights[3], taps[::-1], atol=1e-12)


@pytest.mark.parametrize(("size", "out"), [(16, 13), (16, 9), (16, 27), (5, 3)])
def test_bilinear_antialias_is_that_of_jax(size, out):
    table = RNG.normal(size=(size, size, 2)).astype(np.float32)
    expected = jax.image.resize(table, (out, out, 2), "linear", antialias=True)
    ours = siglip_positions.resize(jnp.asarray(table.reshape(-1, 2)), (out, out), "bilinear_antialias")
    np.testing.assert_allclose(ours, expected.reshape(-1, 2), atol=1e-5)


def test_the_table_follows_the_picture(params):
    wide = np.zeros((1, 5, 9, 3), np.float32)
    embedded = SiglipVision(TINY).apply({"params": params}, wide, method="embed")
    table = params["embeddings"]["position"]["embedding"].reshape(3, 3, 8)
    rows, columns = siglip_positions.bicubic(2, 3), siglip_positions.bicubic(4, 3)
    expected = np.einsum("ih,jw,hwd->ijd", rows, columns, table).reshape(8, 8) + params["embeddings"]["patch"]["bias"]
    np.testing.assert_allclose(embedded[0], expected, atol=1e-5)


def test_the_text_tower_reads_the_last_position_and_everything_before_it():
    tower, ids = SiglipText(TEXT), np.array([[1, 2, 3, 0, 0]])
    params = random_params(tower, ids)
    run = jax.jit(tower.apply)
    features, aux = run({"params": params}, ids)
    assert features.shape == (1, 6)
    expected = aux["hidden"][:, -1] @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(features, expected, atol=1e-5)
    for position in range(5):
        changed = ids.copy()
        changed[0, position] = 7
        assert np.abs(run({"params": params}, changed)[0] - features).max() > 1e-4, position
    assert params["logit_scale"].shape == params["logit_bias"].shape == ()
    assert params["embeddings"]["token"]["embedding"].shape == (256, 8)


def test_every_parameter_has_one_sharding_rule(params):
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    shardings, _ = param_shardings(siglip.SHARDING, params, mesh)
    flat = flatten_dict(shardings, sep="/")
    assert flat["layers/span_1_3/attention/q/kernel"].spec == P(None, "fsdp", "tensor", None)
    text = jax.eval_shape(SiglipText(TEXT).init, jax.random.key(0), np.zeros((1, 5), np.int32))["params"]
    param_shardings(siglip_text.SHARDING, text, mesh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads 3 must divide width 8"),
        ({"cuts": (3, 1)}, "must rise"),
        ({"cuts": (4,)}, "between 0 and layers 4"),
        ({"position_resize": "bicubik"}, "Did you mean bicubic"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **change)
