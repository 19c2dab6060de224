"""Residual quantizers: what the goldens do not reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.quantizers import residual

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
        quantized, books, restarted = step(books, jax.random.key(number))
    assert quantized.commitment.mean() < 0.1 * first
    assert int(restarted) < config.size
    assert len(np.unique(quantized.codes[..., 0])) > 4


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
