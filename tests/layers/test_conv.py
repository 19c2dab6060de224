"""The convolutional bricks against plain numpy and flax's own group norm."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from unitok_jax.layers import conv

RNG = np.random.default_rng(0)


def image(*shape):
    return RNG.normal(size=shape).astype(np.float32) * 2 + 1


def reference_norm(x, groups, scale, bias, epsilon):
    b, h, w, c = x.shape
    grouped = x.astype(np.float64).reshape(b, h * w, groups, c // groups)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (12, 4), (6, 2), (8, 1)])
def test_group_norm(channels, groups):
    x, params = image(2, 3, 5, channels), {"scale": image(channels), "bias": image(channels)}
    out = conv.GroupNorm(groups).apply({"params": params}, x)
    np.testing.assert_allclose(out, reference_norm(x, groups, **params, epsilon=1e-6), rtol=1e-4, atol=1e-4)


def test_group_norm_has_as_many_groups_as_divide_the_channels():
    x, params = image(1, 2, 2, 24), {"scale": np.ones(24, np.float32), "bias": np.zeros(24, np.float32)}
    out = conv.GroupNorm(32).apply({"params": params}, x)
    np.testing.assert_allclose(out, reference_norm(x, 8, **params, epsilon=1e-6), atol=1e-4)


def test_group_norm_has_the_gradient_of_flax():
    x, weights = image(2, 3, 4, 8), image(2, 3, 4, 8)
    params = {"scale": image(8), "bias": image(8)}
    ours, theirs = conv.GroupNorm(4), nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
    gradients = [
        jax.jit(jax.grad(lambda p, x, m=m: (m.apply({"params": p}, x) * weights).sum(), (0, 1)))(params, x)
        for m in (ours, theirs)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)


def test_group_norm_of_a_shifted_half_precision_map():
    x = np.asarray(image(1, 4, 4, 8) + 300, jax.numpy.bfloat16)
    out = jax.jit(conv.GroupNorm(4).init_with_output)(jax.random.key(0), x)[0]
    assert out.dtype == jax.numpy.bfloat16
    expected = reference_norm(x.astype(np.float64), 4, np.ones(8), np.zeros(8), 1e-6)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=2e-2)


def test_downsample_pads_right_and_bottom():
    x, kernel, bias = image(1, 4, 6, 2), image(3, 3, 2, 3), image(3)
    out = conv.downsample(3, "float32", None).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    padded = np.pad(x[0], ((0, 1), (0, 1), (0, 0)))
    expected = [
        [np.einsum("ijc,ijco->o", padded[2 * r : 2 * r + 3, 2 * c : 2 * c + 3], kernel) + bias for c in range(3)]
        for r in range(2)
    ]
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-4)


def test_double_repeats_pixels():
    x = image(2, 2, 3, 4)
    np.testing.assert_array_equal(conv.double(x), x.repeat(2, 1).repeat(2, 2))


def test_fold_lays_squares_side_by_side():
    x = image(2, 4, 6, 3)
    folded = conv.fold(x, 2)
    np.testing.assert_array_equal(folded[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(conv.unfold(folded, 2), x)


def test_attention_block():
    block, x = conv.AttentionBlock(2), image(1, 2, 3, 4)
    params = jax.tree.map(lambda p: 0.3 * image(*p.shape), jax.jit(block.init)(jax.random.key(0), x)["params"])
    h = reference_norm(x, 2, **params["norm"], epsilon=1e-6).reshape(6, 4)
    q, k, v = (h @ params[name]["kernel"] + params[name]["bias"] for name in "qkv")
    scores = np.exp(q @ k.T / 2)
    read = scores / scores.sum(1, keepdims=True) @ v
    expected = x[0] + (read @ params["out"]["kernel"] + params["out"]["bias"]).reshape(2, 3, 4)
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("features", "shortcut"), [(4, False), (6, True)])
def test_resnet_block_projects_its_shortcut_only_where_the_width_changes(features, shortcut):
    block, x = conv.ResnetBlock(features, 2), image(1, 2, 2, 4)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    assert ("shortcut" in params) == shortcut
    params = {**params, "conv2": jax.tree.map(np.zeros_like, params["conv2"])}
    expected = x @ params["shortcut"]["kernel"] if shortcut else x
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), expected, atol=1e-5)


def test_group_norm_by_each_pictures_own_scale():
    x = image(2, 3, 3, 8)
    scale = np.array([[1.0] * 8, [2.0] * 8], np.float32)[:, None, None]
    bias = np.array([[0.0] * 8, [3.0] * 8], np.float32)[:, None, None]
    plain = conv.group_normalise(x, np.ones(8, np.float32), np.zeros(8, np.float32), 4, 1e-6)
    own = conv.group_normalise(x, scale, bias, 4, 1e-6)
    np.testing.assert_allclose(own, plain * scale + bias, rtol=1e-5, atol=1e-6)


def test_residual_block_without_biases():
    params = conv.ResnetBlock(8, 2, use_bias=False).init(jax.random.key(0), image(1, 2, 2, 4))["params"]
    assert not any("bias" in leaves for name, leaves in params.items() if not name.startswith("norm"))
