"""Nearest-row quantisation against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from unitok_jax.quantizers import nearest

RNG = np.random.default_rng(0)
LATENTS = RNG.normal(size=(2, 3, 5, 4)).astype(np.float32)
BOOK = RNG.normal(size=(37, 4)).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def brute_force(queries, rows):
    return np.square(queries[..., None, :].astype(np.float64) - rows).sum(-1).argmin(-1)


@pytest.mark.parametrize("chunk", [1, 8, 36, 37, 4096])
def test_search_finds_the_nearest_row_whatever_the_chunk(chunk):
    found = nearest.search(LATENTS, BOOK, chunk=chunk)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, brute_force(LATENTS, BOOK))


@pytest.mark.parametrize("chunk", [2, 3, 4096])
def test_the_lowest_index_wins_a_tie(chunk):
    rows = np.array([[9.0, 9], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    queries = np.array([[1.0, 0], [0, 1], [0.5, 0.5]], np.float32)
    np.testing.assert_array_equal(nearest.search(queries, rows, chunk=chunk), [1, 2, 1])


def test_a_large_codebook_never_meets_all_latents_at_once():
    count, rows = 512, 65536
    lowered = jax.jit(nearest.search).lower(
        jax.ShapeDtypeStruct((count, 8), jnp.float32), jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    )
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < count * rows * 4 / 4


def test_low_precision_latents_are_compared_in_float32():
    rows = np.array([[1.0], [1.001]], np.float32)
    assert nearest.search(jnp.ones((1, 1), jnp.bfloat16), rows)[0] == 0
    quantized = nearest.quantize(jnp.ones((1, 1), jnp.bfloat16), rows)
    assert quantized.latents.dtype == jnp.float32


@pytest.mark.parametrize("l2_norm", [False, True])
def test_quantize(l2_norm):
    source, rows = (unit(LATENTS), unit(BOOK)) if l2_norm else (LATENTS, BOOK)
    quantized = nearest.quantize(LATENTS, BOOK, l2_norm=l2_norm)
    codes = brute_force(source, rows)
    np.testing.assert_array_equal(quantized.codes, codes)
    np.testing.assert_allclose(quantized.latents, rows[codes], atol=1e-6)
    np.testing.assert_allclose(nearest.lookup(BOOK, codes, l2_norm=l2_norm), rows[codes], atol=1e-6)
    expected = np.square(source - rows[codes]).mean(-1)
    np.testing.assert_allclose(nearest.codebook_loss(quantized), expected, atol=1e-6)
    np.testing.assert_allclose(nearest.commitment_loss(quantized), expected, atol=1e-6)


def test_gradients_go_straight_through():
    weights = RNG.normal(size=LATENTS.shape).astype(np.float32)

    def loss(latents, book):
        return (nearest.quantize(latents, book).latents * weights).sum()

    of_latents, of_book = jax.grad(loss, (0, 1))(LATENTS, BOOK)
    np.testing.assert_allclose(of_latents, weights)
    np.testing.assert_array_equal(of_book, 0)


def test_each_loss_moves_its_own_side():
    codes = brute_force(LATENTS, BOOK)
    gap = (BOOK[codes] - LATENTS) * 2 / LATENTS.shape[-1]

    def gradients(loss):
        return jax.grad(lambda z, e: loss(nearest.quantize(z, e)).sum(), (0, 1))(LATENTS, BOOK)

    of_latents, of_book = gradients(nearest.codebook_loss)
    expected = np.zeros_like(BOOK)
    np.add.at(expected, codes, gap)
    np.testing.assert_array_equal(of_latents, 0)
    np.testing.assert_allclose(of_book, expected, atol=1e-5)
    of_latents, of_book = gradients(nearest.commitment_loss)
    np.testing.assert_allclose(of_latents, -gap, atol=1e-6)
    np.testing.assert_array_equal(of_book, 0)


def entropy_reference(source, rows, temperature):
    flat = source.reshape(-1, source.shape[-1]).astype(np.float64)
    scores = -np.square(flat[:, None] - rows).sum(-1) / temperature
    soft = np.exp(scores - scores.max(1, keepdims=True))
    soft /= soft.sum(1, keepdims=True)
    mean = soft.mean(0)
    return -(soft * np.log(soft + 1e-300)).sum(1).mean() + (mean * np.log(mean + 1e-5)).sum()


@pytest.mark.parametrize("chunk", [1, 7, 30, 1024])
def test_entropy_loss(chunk):
    value = nearest.entropy_loss(LATENTS, BOOK, temperature=0.5, chunk=chunk)
    np.testing.assert_allclose(value, entropy_reference(LATENTS, BOOK, 0.5), rtol=1e-5)


def test_entropy_loss_has_its_gradient_in_chunks():
    latents, book = LATENTS[0, :, :2], BOOK[:6]
    whole, parts = (
        jax.grad(lambda z, e, n=n: nearest.entropy_loss(z, e, temperature=0.7, chunk=n), (0, 1))(latents, book)
        for n in (64, 4)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, parts)
    check_grads(
        lambda z, e: nearest.entropy_loss(z, e, temperature=0.7, chunk=4), (latents, book), 1, ["rev"], 2e-2, 2e-2
    )


def test_usage_and_perplexity():
    counts = nearest.histogram(jnp.array([[0, 0], [2, 2]]), 4)
    np.testing.assert_array_equal(counts, [2, 0, 2, 0])
    assert nearest.usage(counts) == 0.5
    np.testing.assert_allclose(nearest.perplexity(counts), 2, rtol=1e-6)
    np.testing.assert_allclose(nearest.perplexity(jnp.ones(7, jnp.int32)), 7, rtol=1e-6)
    np.testing.assert_allclose(nearest.perplexity(jnp.zeros(7, jnp.int32)), 1)


def test_metrics_merge_before_they_are_computed():
    first, second = (nearest.histogram(jnp.array(codes), 4) for codes in ([0, 0, 1], [3, 3, 1]))
    merged = nearest.CodeUsage.empty().merge(nearest.CodeUsage(first)).merge(nearest.CodeUsage(second))
    assert merged.compute() == 0.75
    merged = nearest.CodePerplexity.empty().merge(nearest.CodePerplexity(first)).merge(nearest.CodePerplexity(second))
    np.testing.assert_allclose(merged.compute(), 3, rtol=1e-6)


def test_dead_rows_move_onto_latents():
    dead = jnp.arange(37) % 2 == 0
    picks = nearest.draw_picks(jax.random.key(0), 30, 37)
    moved = nearest.replace_rows(BOOK, dead, LATENTS, picks)
    np.testing.assert_array_equal(moved[1::2], BOOK[1::2])
    np.testing.assert_array_equal(moved[::2], LATENTS.reshape(30, 4)[picks[::2]])


def test_picks_do_not_repeat_while_there_are_enough():
    picks = np.asarray(nearest.draw_picks(jax.random.key(1), 40, 37))
    assert len(set(picks.tolist())) == 37 and picks.max() < 40
    assert nearest.draw_picks(jax.random.key(1), 5, 37).max() < 5
