"""Binary codes against plain enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.quantizers import binary

LATENTS = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32) * 0.01


def soft(latents, groups):
    """The softmax over all codes of a group, written out."""
    rows = np.asarray(binary.table(latents.shape[-1] // groups), np.float64)
    split = latents.astype(np.float64).reshape(*latents.shape[:-1], groups, -1)
    logits = 2 * split @ rows.T / binary.TEMPERATURE
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_integers_and_signs_are_inverse():
    codes = binary.signs(LATENTS)
    indices = binary.to_indices(codes, 2)
    assert indices[0, 0, 0] == sum(1 << j for j in range(3) if LATENTS[0, 0, j] > 0)
    np.testing.assert_array_equal(binary.from_indices(indices, 6), codes)


def test_entropies_against_the_softmax():
    probabilities = soft(LATENTS, 2)
    one = -(probabilities * np.log(probabilities + 1e-300)).sum(-1)
    np.testing.assert_allclose(binary.token_entropy(LATENTS, 2), one.mean(-1), rtol=1e-4)
    np.testing.assert_allclose(binary.token_entropy(LATENTS, 2, sum_groups=True), one.sum(-1), rtol=1e-4)
    mean = probabilities.mean((0, 1, 2))
    np.testing.assert_allclose(binary.codebook_entropy(LATENTS, 2), -(mean * np.log(mean + 1e-5)).sum(), rtol=1e-4)


def test_codebook_entropy_by_shard_and_without_padding():
    halves = [binary.codebook_entropy(part, 2) for part in np.split(LATENTS[:2], 2)]
    np.testing.assert_allclose(binary.codebook_entropy(LATENTS[:2], 2, shards=2), np.mean(halves), rtol=1e-5)
    weights = jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(
        binary.codebook_entropy(LATENTS, 2, weights=weights), binary.codebook_entropy(LATENTS[:2], 2), rtol=1e-5
    )


def test_gradient_passes_straight_through():
    gradient = jax.grad(lambda x: jnp.sum(binary.straight_through(x) * LATENTS))(jnp.asarray(LATENTS))
    np.testing.assert_allclose(gradient, LATENTS)


def test_flips_only_where_drawn():
    codes = jnp.ones(3)
    np.testing.assert_array_equal(binary.flip(codes, jnp.array([0.0, 0.2, 0.5]), jnp.ones(3), 0.3), [-1, -1, 1])


def test_histogram_leaves_out_padding():
    counts = binary.histogram(jnp.array([[[0, 1]], [[1, 1]]]), 4, jnp.array([True, False]))
    np.testing.assert_array_equal(counts, [1, 1, 0, 0])


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="6 channels do not make 4 groups"):
        binary.to_indices(jnp.ones(6), 4)
