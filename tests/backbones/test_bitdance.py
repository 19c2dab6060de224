"""BitDance: decoding by its cache equals the forward pass; what does not fit is told."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones import bitdance
from unitok_jax.backbones.bitdance import BitDance, BitDanceConfig
from unitok_jax.backbones.bitdance_sampling import Plan, generate, noise_from_keys
from unitok_jax.backbones.flow_head import FlowHeadConfig
from unitok_jax.errors import UserError
from unitok_jax.sampling.draw import sample_keys

HEAD = FlowHeadConfig("transformer", 64, 1, 1)
CONFIG = BitDanceConfig(16, 1, 2, 8, grid=(4, 4), classes=3, class_tokens=2, parallel_num=4, order="patch", head=HEAD)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: bitdance.init_bitdance(CONFIG, key))(jax.random.key(0))


@pytest.mark.slow
def test_what_is_drawn_was_conditioned_as_in_training(params):
    plan, labels = Plan(2, 3.0), jnp.array([0, 2])
    draw = noise_from_keys(CONFIG, sample_keys(jnp.arange(2)), plan)
    run = jax.jit(lambda p: generate(CONFIG, p, labels, draw, plan))
    tokens, aux = run(params)
    assert set(np.unique(tokens)) == {-1.0, 1.0}
    forward, _ = jax.jit(lambda p: BitDance(CONFIG).apply({"params": p}, tokens, labels))(params)
    conditional = jnp.moveaxis(aux["conditions"][:, :2], 0, 1).reshape(forward.shape)
    np.testing.assert_allclose(conditional, forward, rtol=1e-4, atol=1e-5)


def test_tokens_and_maps_are_inverse():
    codes = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    config = dataclasses.replace(CONFIG, patch=2)
    tokens = bitdance.to_tokens(config, codes)
    assert tokens.shape == (2, 16, 8)
    np.testing.assert_array_equal(bitdance.to_codes(config, tokens, (4, 4)), codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallel_num": 3}, "must divide"),
        ({"parallel_num": 8}, "needs a square"),
        ({"parallel_num": 1}, "the mlp head one"),
        ({"order": "spiral"}, "no 'spiral'"),
    ],
)
def test_what_does_not_fit_is_told(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
