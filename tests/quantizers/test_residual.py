"""Residual quantizers: what the goldens do not reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.quantizers import nearest, residual

CONFIG = residual.ResidualConfig(features=4, size=16, depth=3, decay=0.5)


def books_and_map(config=CONFIG, batch=2):
    books = residual.new_books(config, jax.random.key(0))
    return books, jax.random.normal(jax.random.key(1), (batch, 4, 4, config.features))


def test_each_depth_brings_the_sum_nearer_and_embeds_to_the_latents():
    books, x = books_and_map()
    rows = books["book_0"]["weight"].at[0].set(0)  # a row that leaves things as they are: no depth can do harm
    books = {"book_0": {**books["book_0"], "weight": rows}}
    quantized = residual.quantize(CONFIG, books, x)
    errors = [float(jnp.square(x - quantized.sums[..., d, :]).mean()) for d in range(CONFIG.depth)]
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(residual.embed(CONFIG, books, quantized.codes), quantized.latents, atol=1e-6)
    np.testing.assert_allclose(quantized.commitment.mean(), np.mean(errors), rtol=1e-6)


@pytest.mark.parametrize("kind", ["rq", "rq_ema"])
def test_training_lowers_the_error_and_keeps_codes_in_use(kind):
    config = dataclasses.replace(CONFIG, kind=kind)
    books, x = books_and_map(config, batch=8)
    books = jax.tree.map(lambda leaf: leaf + 50, books)  # far from everything: all but one code are dead

    @jax.jit
    def step(books, key):
        return residual.learn(config, books, x, residual.draw_restarts(config, key, 8 * 16))

    first = step(books, jax.random.key(0))[0].commitment.mean()
    for number in range(8):
        quantized, books, dead = step(books, jax.random.key(number))
    assert quantized.commitment.mean() < 0.1 * first
    assert dead < 0.8
    assert len(np.unique(quantized.codes[..., 0])) > 4


@pytest.mark.parametrize("kind", ["rq", "rq_ema"])
def test_a_collapsed_codebook_is_seen_although_its_rows_restart(kind):
    config = dataclasses.replace(CONFIG, kind=kind)
    books, _ = books_and_map(config)
    same = jnp.ones((2, 4, 4, config.features))
    quantized, moved, dead = residual.learn(
        config, books, same, residual.draw_restarts(config, jax.random.key(0), 2 * 16)
    )
    assert dead > 0.75  # all but the rows taken at some depth
    assert (moved["book_0"]["count"] >= 1).all()
    counts = nearest.histogram(quantized.codes[..., 0], config.size)
    assert nearest.spread(counts) == pytest.approx(1 / 16)


@pytest.mark.parametrize("kind", ["rq", "rq_ema"])
def test_what_only_fills_up_the_batch_moves_no_codebook(kind):
    config = dataclasses.replace(CONFIG, kind=kind, size=40, restart=True)  # more codes than vectors: some restart
    books, x = books_and_map(config, batch=2)
    draws = residual.draw_restarts(config, jax.random.key(0), 2 * 16)
    rubbish = jnp.concatenate([x, jnp.full((1, 4, 4, config.features), 1e3)])
    kept = jnp.array([1.0, 1.0, 0.0])
    wanted = residual.learn(config, books, x, draws)[1]
    filled = residual.learn(config, books, rubbish[jnp.array([2, 0, 1])], draws, kept[jnp.array([2, 0, 1])])[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), filled, wanted)


def test_restarts_tile_few_vectors_and_tell_them_apart():
    few, many = (residual.draw_restarts(CONFIG, jax.random.key(0), cells) for cells in (5, 64))
    assert many.noise is None
    assert few.picks.shape == (CONFIG.updates, CONFIG.size)
    assert few.noise.shape == (CONFIG.updates, CONFIG.size, CONFIG.width)
    assert all(len(np.unique(row)) == CONFIG.size for row in (*few.picks, *many.picks))
    assert int(few.picks.max()) < 20
    assert residual.draw_restarts(dataclasses.replace(CONFIG, restart=False), jax.random.key(0), 5) is None


def test_no_gradient_reaches_the_codebooks():
    books, x = books_and_map()
    loss = lambda books: residual.quantize(CONFIG, books, x).latents.sum() + residual.lookup(CONFIG, books, codes).sum()  # noqa: E731
    codes = residual.quantize(CONFIG, books, x).codes
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(books)))


def test_wrong_names_are_refused():
    with pytest.raises(UserError, match="kind 'vq'; expected rq or rq_ema"):
        residual.ResidualConfig(kind="vq")
    with pytest.raises(UserError, match="ema_vectors 'last'"):
        residual.ResidualConfig(ema_vectors="last")
