"""The sampler and the times of clean-data prediction, against what they must do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.sampling import x_prediction

TARGET = jnp.array([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])


def test_a_network_that_knows_the_data_gets_there():
    noise = jax.random.normal(jax.random.key(0), (41, *TARGET.shape))
    out, aux = x_prediction.euler_maruyama(lambda z, t: TARGET, noise)
    np.testing.assert_allclose(out, TARGET, atol=0.3)
    np.testing.assert_array_equal(jnp.sign(out), TARGET)
    np.testing.assert_allclose(aux["times"], np.append(np.linspace(0, 0.95, 41)[:-1], 0.95), atol=1e-5)


def test_guidance_moves_away_from_the_unconditional():
    noise = jnp.zeros((2, 1, 1))

    def predict(z, t):
        return jnp.array([[1.0], [0.0]])

    plain, _ = x_prediction.euler_maruyama(lambda z, t: jnp.array([[1.0]]), noise)
    guided, _ = x_prediction.euler_maruyama(predict, noise, guidance=3.0)
    assert guided[0, 0] > 2 * plain[0, 0]


def test_between_and_velocity_lead_to_the_data():
    noise, t = jnp.zeros_like(TARGET), jnp.array([0.25, 0.5])
    z = x_prediction.between(TARGET, noise, t)
    v = x_prediction.velocity(TARGET, z, t)
    np.testing.assert_allclose(z + v * (1 - t)[:, None], TARGET, atol=1e-6)


def test_times():
    assert float(x_prediction.shifted(jnp.float32(0.5), 3.0)) == pytest.approx(0.25)
    np.testing.assert_allclose(x_prediction.times(jnp.zeros(2), mean=-0.8), 1 / (1 + np.exp(0.8)), rtol=1e-6)
    with pytest.raises(UserError, match="no schedule 'cosine'"):
        x_prediction.times(jnp.zeros(1), "cosine")


def test_guidance_schedules():
    assert x_prediction.guidance_at("linear", 5.0, 0, 4) == 1 and x_prediction.guidance_at("linear", 5.0, 2, 4) == 3
    assert x_prediction.guidance_at("constant", 5.0, 0, 4) == 5
