"""Norms, rotary positions and feed-forward layers against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from unitok_jax.errors import UserError
from unitok_jax.layers.mlp import MLP, GatedMLP
from unitok_jax.layers.norms import HeadLayerNorm, LayerNorm, RMSNorm
from unitok_jax.layers.rope import rope_angles, rotate

X = np.random.default_rng(0).normal(2.0, 3.0, (2, 5, 6, 8)).astype(np.float32)  # [B, S, heads, head_dim]


def run(module, x, dtype=np.float32):
    """The module's output with parameters that are not all ones or zeros, and these parameters."""
    params = module.init(jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    params = tree.unflatten([p + np.linspace(-0.4, 0.7, p.size).reshape(p.shape) for p in leaves])
    return np.asarray(module.apply({"params": params}, jnp.asarray(x, dtype))), jax.tree.map(np.asarray, params)


def standard(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def test_rms_norm():
    ours, params = run(RMSNorm(0.5), X)
    np.testing.assert_allclose(ours, X / np.sqrt((X**2).mean(-1, keepdims=True) + 0.5) * params["scale"], atol=1e-5)


def test_rms_norm_rounds_before_the_weight_multiplies():
    x = np.float32(np.random.default_rng(1).normal(size=(4, 64)))
    ours, params = run(RMSNorm(1e-6), x, jnp.bfloat16)
    wide = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    rounded = jnp.asarray(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6), jnp.bfloat16)
    np.testing.assert_array_equal(ours, rounded * jnp.asarray(params["scale"], jnp.bfloat16))


def test_layer_norm():
    ours, params = run(LayerNorm(0.5), X)
    np.testing.assert_allclose(ours, standard(X, 0.5) * params["scale"] + params["bias"], atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_head_norm_repeats_its_rows_over_runs_of_heads(groups):
    ours, params = run(HeadLayerNorm(groups, 1e-5), X)
    assert params["scale"].shape == params["bias"].shape == (groups, 8)
    scale, bias = (np.repeat(params[name], 6 // groups, axis=0) for name in ("scale", "bias"))
    np.testing.assert_allclose(ours, standard(X, 1e-5) * scale + bias, atol=1e-5)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotation_is_a_complex_product(layout):
    positions = np.asarray([[0, 1, 2, 3, 4], [7, 1, 40, 41, 5000]])
    angles = rope_angles(positions, 8, 10000.0)
    exact = positions[..., None] * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(angles, exact, rtol=1e-6)
    ours = np.asarray(rotate(X, jnp.cos(angles), jnp.sin(angles), layout))
    pairs = (lambda x: (x[..., :4], x[..., 4:])) if layout == "half" else (lambda x: (x[..., 0::2], x[..., 1::2]))
    real, imaginary = pairs(X)
    turned = (real + 1j * imaginary) * np.exp(1j * exact)[:, :, None]
    np.testing.assert_allclose(pairs(ours)[0] + 1j * pairs(ours)[1], turned, atol=6e-3)  # fp32 angles up to 5000
    np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), np.linalg.norm(X, axis=-1), rtol=1e-5)


def test_scores_depend_on_distance_alone():
    q, k = X[:1, :1], X[1:, :1]

    def score(i, j):
        turned = [
            rotate(x, *(f(rope_angles(np.asarray([[p]]), 8, 100.0)) for f in (jnp.cos, jnp.sin)))
            for x, p in ((q, i), (k, j))
        ]
        return np.sum(turned[0] * turned[1], -1)

    np.testing.assert_allclose(score(9, 4), score(25, 20), rtol=1e-4, atol=1e-4)


def test_gated_mlp():
    ours, p = run(GatedMLP(12), X)
    gate, up = (X @ p[name]["kernel"] for name in ("gate", "up"))
    np.testing.assert_allclose(ours, (gate * expit(gate) * up) @ p["down"]["kernel"], rtol=1e-4, atol=1e-4)


def test_gated_mlp_with_biases_and_another_width():
    ours, p = run(GatedMLP(12, use_bias=True, out=5), X)
    gate, up = (X @ p[name]["kernel"] + p[name]["bias"] for name in ("gate", "up"))
    wanted = (gate * expit(gate) * up) @ p["down"]["kernel"] + p["down"]["bias"]
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, function",
    [
        ("gelu", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_mlp(name, function):
    ours, p = run(MLP(12, name, out=3), X * 0.2)
    hidden = function(0.2 * X @ p["fc1"]["kernel"] + p["fc1"]["bias"])
    np.testing.assert_allclose(ours, hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"], atol=2e-5)


def test_an_unknown_activation_is_told():
    with pytest.raises(UserError, match=r"no function 'gelu_tan'\. Did you mean gelu_tanh"):
        run(MLP(4, "gelu_tan"), X)
