"""The adversarial losses by hand, and the adaptive weight against two whole backward passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.losses import adversarial as gan
from unitok_jax.losses.perceptual import feature_distance, normalise

REAL = jnp.array([[2.0, 0.5], [-1.0, 0.0]]).reshape(2, 1, 2, 1)
FAKE = jnp.array([[-2.0, -0.5], [3.0, 1.0]]).reshape(2, 1, 2, 1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("hinge", [0.5 * (0.25 + 0.25), 0.5 * (1.5 + 3.0)]),
        ("leaky_hinge", [0.5 * (0.245 + 0.245), 0.5 * (1.5 + 3.0)]),
        ("vanilla", [np.log1p(np.exp([-2, -0.5])).mean(), 0.5 * np.log1p(np.exp([1.0, 0.0, 3.0, 1.0])).mean() * 2]),
        ("nonsaturating", [2 * np.log1p(np.exp(-1.25)), np.log1p(np.exp(0.5)) + np.log1p(np.exp(2.0))]),
    ],
)
def test_losses_of_the_discriminator_by_picture(loss, expected):
    found = gan.DISCRIMINATOR_LOSSES[loss](REAL, FAKE)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_losses_of_the_generator_by_picture():
    np.testing.assert_allclose(gan.hinge_g(FAKE), [1.25, -2.0])
    np.testing.assert_allclose(gan.nonsaturating_g(FAKE), np.log1p(np.exp([1.25, -2.0])), rtol=1e-6)


def test_lecam_leaves_padding_out_of_its_averages():
    averages = gan.lecam_update(gan.lecam_start(), REAL, FAKE, 0.9, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose([averages["real"], averages["fake"]], [0.125, -0.125], rtol=1e-6)
    both = gan.lecam_update(averages, REAL, FAKE, 0.9)
    np.testing.assert_allclose(both["real"], 0.9 * 0.125 + 0.1 * 0.375, rtol=1e-5)
    held = {"real": jnp.float32(1.0), "fake": jnp.float32(0.0)}
    np.testing.assert_allclose(gan.lecam(held, REAL, FAKE), [(4 + 0.25) / 2 + (9 + 2.25) / 2, 0], rtol=1e-6)


def test_adaptive_weight_needs_no_second_backward_pass():
    """Losses joined at the output give the gradient of the weighted sum, all through the network."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"first": jax.random.normal(keys[0], (5, 7)), "last": jax.random.normal(keys[1], (7, 3))}
    x, target = jax.random.normal(keys[2], (4, 5)), jax.random.normal(keys[3], (4, 3))

    def hidden(params):
        return jnp.tanh(x @ params["first"])

    def written(params):
        return hidden(params) @ params["last"]

    def rebuilt(y):
        return jnp.square(y - target).mean(), {}

    def against(y):
        return jnp.sin(y).sum(), {}

    norms = [jnp.linalg.norm(jax.grad(lambda p, f=f: f(written(p))[0])(params)["last"]) for f in (rebuilt, against)]
    weight = norms[0] / (norms[1] + 1e-4)

    def joined(params):
        y = written(params)
        value, _, pull = gan.with_cotangent(rebuilt, y)
        other, _, other_pull = gan.with_cotangent(against, y)

        def last(w):
            return jax.lax.stop_gradient(hidden(params)) @ w

        ours = gan.adaptive_weight(*(gan.weight_norm(last, params["last"], p) for p in (pull, other_pull)))
        return gan.attach(value + ours * other, y, pull + ours * other_pull), ours

    (value, ours), grads = jax.value_and_grad(joined, has_aux=True)(params)
    plain, expected = jax.value_and_grad(lambda p: rebuilt(written(p))[0] + weight * against(written(p))[0])(params)
    np.testing.assert_allclose([ours, value], [weight, plain], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, expected)


def test_adaptive_weight_is_clipped():
    assert gan.adaptive_weight(jnp.float32(1), jnp.float32(0), 0.3, 10.0) == 10
    np.testing.assert_allclose(gan.adaptive_weight(jnp.float32(0), jnp.float32(1), 0.3, 10.0), 0.3)


def test_enlargement_fades():
    assert [float(gan.enlarged(step, 3, 2)) for step in jnp.arange(4)] == [4, 2.5, 1, 1]


def test_perceptual_distance_of_dead_features():
    """A position whose channels are all zero gets no gradient, not NaN."""
    x = jnp.array([0.0, 0.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(normalise(x).ravel(), [0, 0, 0.6, 0.8], rtol=1e-6)
    head = jnp.array([1.0, 2.0])

    def distance(x):
        return feature_distance([x], [jnp.ones_like(x) / 2], [head]).sum()

    assert jnp.isfinite(jax.grad(distance)(x)).all()
    half = 0.5**0.5
    by_position = [half**2 * 3, (0.6 - half) ** 2 + 2 * (0.8 - half) ** 2]
    np.testing.assert_allclose(distance(x), np.mean(by_position), rtol=1e-5)
