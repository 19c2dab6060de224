import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import draw, draw_by_mode, sample_keys, step_keys
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling


def _logits(rows, vocab=7, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, vocab)).astype(np.float32))


def test_temperature_zero_takes_the_largest_and_the_lowest_of_ties():
    logits = jnp.array([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    assert draw(logits, sample_keys(jnp.arange(2)), GREEDY).tolist() == [1, 0]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.5), Sampling(temperature=2.0, top_k=3), Sampling(top_p=0.6)]
)
def test_draws_follow_the_distribution(sampling):
    row = np.asarray(_logits(1))[0].astype(np.float64)
    draws = np.asarray(draw(jnp.tile(row.astype(np.float32), (20000, 1)), sample_keys(jnp.arange(20000)), sampling))
    kept = row.copy()
    if sampling.top_k:
        kept[kept < np.sort(row)[-sampling.top_k]] = -np.inf
    if sampling.top_p < 1:
        order = np.argsort(-row)
        mass = np.cumsum(np.exp(row[order]) / np.exp(row).sum())
        kept[order[int(np.argmax(mass >= sampling.top_p)) + 1 :]] = -np.inf
    expected = np.exp(kept / sampling.temperature)
    expected /= expected.sum()
    seen = np.bincount(draws, minlength=len(row)) / len(draws)
    assert not seen[expected == 0].any()
    np.testing.assert_allclose(seen, expected, atol=0.012)


def test_a_row_draws_alone_what_it_draws_in_a_batch():
    logits, keys = _logits(5), step_keys(sample_keys(jnp.array([7, 7, 8, 9, 1])), 3)
    together = draw(logits, keys, Sampling(temperature=3.0))
    alone = [int(draw(logits[i : i + 1], keys[i : i + 1], Sampling(temperature=3.0))[0]) for i in range(5)]
    assert together.tolist() == alone


def test_steps_and_seeds_draw_differently():
    logits = jnp.zeros((1, 1000))
    drawn = {
        int(draw(logits, step_keys(sample_keys(jnp.array([s])), t), Sampling())[0]) for s in (0, 1) for t in (0, 1)
    }
    assert len(drawn) == 4


def test_each_mode_draws_as_it_would_alone():
    logits, keys = _logits(6, vocab=50), sample_keys(jnp.arange(6))
    image, text = Sampling(temperature=2.0, top_k=20), Sampling(temperature=0.5, top_p=0.8)
    in_image = jnp.array([True, False, True, False, False, True])
    got = draw_by_mode(logits, keys, image, text, in_image)
    np.testing.assert_array_equal(got, jnp.where(in_image, draw(logits, keys, image), draw(logits, keys, text)))
    greedy = draw_by_mode(logits, keys, image, GREEDY, in_image)
    np.testing.assert_array_equal(greedy, jnp.where(in_image, draw(logits, keys, image), draw(logits, keys, GREEDY)))


def test_modes_switch_without_a_compile():
    program = jax.jit(draw_by_mode, static_argnums=(2, 3))
    for flags in ([True, True], [False, True]):
        program(_logits(2), sample_keys(jnp.arange(2)), Sampling(top_k=2), GREEDY, jnp.array(flags))
    assert program._cache_size() == 1


def test_guidance_mixes_each_sample_with_its_own_unconditional_row():
    logits = _logits(6)
    guided = guidance.guide(logits, Decoding(guidance=3.0), where=jnp.array([True, False, True]))
    c, u = np.asarray(logits[:3]), np.asarray(logits[3:])
    np.testing.assert_allclose(guided, np.where([[1], [0], [1]], u + 3 * (c - u), c), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(guidance.guide(logits, Decoding()), logits)
    assert guidance.to_rows(jnp.array([4, 5]), Decoding(guidance=2.0)).tolist() == [4, 5, 4, 5]
    assert guidance.conditional(jnp.arange(4), Decoding(guidance=2.0)).tolist() == [0, 1]
