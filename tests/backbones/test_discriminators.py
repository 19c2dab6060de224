"""Discriminators and LPIPS: shapes, running statistics, what couples pictures, names that both tables cover."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.backbones.discriminators import DiscriminatorSettings, blur, init_discriminator, judge
from unitok_jax.backbones.discriminators_rules import discriminator_table, statistics_table
from unitok_jax.backbones.lpips import init_lpips, lpips
from unitok_jax.errors import UserError
from unitok_jax.layers.batch_norm import STATISTICS, BatchNorm
from unitok_jax.weights.transfer import upstream_shapes

KEY = jax.random.key(0)
SETTINGS = [
    DiscriminatorSettings("patch", 64, 3),
    DiscriminatorSettings("patch", 64, 3, norm="group"),
    DiscriminatorSettings("blur", 64, 3),
    DiscriminatorSettings("pool", 64, 3),
    DiscriminatorSettings("resnet", 64, 4),
]


@pytest.mark.parametrize(("settings", "size"), list(zip(SETTINGS, (30, 30, 32, 32, 16), strict=True)))
def test_published_sizes(settings, size):
    """256 pixels give the maps that the references give; at full width, nothing allocated."""
    params, statistics = jax.eval_shape(functools.partial(init_discriminator, settings), KEY)
    pictures = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    logits, after = jax.eval_shape(functools.partial(judge, settings), params, statistics, pictures)
    assert logits.shape == (2, size, size, 1)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, statistics)
    assert bool(statistics) == settings.couples
    assert upstream_shapes(discriminator_table(settings), params)
    if statistics:
        keys = upstream_shapes(statistics_table(settings), statistics)
        assert set(keys) == {f"main.{i}.running_{what}" for i in (3, 6, 9) for what in ("mean", "var")}


def test_batch_norm_moves_its_statistics_in_training_alone():
    x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (3, 4, 2, 5)), jnp.float32)
    norm = BatchNorm()
    variables = norm.init(KEY, x, True)
    np.testing.assert_array_equal(variables[STATISTICS]["mean"], 0)  # making it is no training
    y, changed = norm.apply(variables, x, True, mutable=[STATISTICS])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(changed[STATISTICS]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    unbiased = np.var(np.asarray(x).reshape(-1, 5), axis=0, ddof=1)
    np.testing.assert_allclose(changed[STATISTICS]["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)
    used = {**variables, **changed}
    y, same = norm.apply(used, x, False, mutable=[STATISTICS])
    expected = (x - changed[STATISTICS]["mean"]) / jnp.sqrt(changed[STATISTICS]["var"] + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, same[STATISTICS], changed[STATISTICS])


def test_batch_norm_by_shard_is_that_of_each_alone():
    x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (6, 4, 2, 5)), jnp.float32)
    variables = BatchNorm().init(KEY, x, True)
    y, changed = BatchNorm(shards=2).apply(variables, x, True, mutable=[STATISTICS])
    alone = [BatchNorm().apply(variables, part, True, mutable=[STATISTICS]) for part in (x[:3], x[3:])]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in alone]), rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        expected = np.mean([moved[STATISTICS][name] for _, moved in alone], axis=0)
        np.testing.assert_allclose(changed[STATISTICS][name], expected, rtol=1e-5)
    with pytest.raises(UserError, match="6 pictures do not divide into 4 shards"):
        BatchNorm(shards=4).apply(variables, x, True, mutable=[STATISTICS])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_only_batch_norm_couples_pictures(norm):
    settings = DiscriminatorSettings("patch", 8, 1, norm=norm)
    params, statistics = init_discriminator(settings, KEY)
    pictures = jax.random.normal(KEY, (2, 16, 16, 3))
    together, _ = judge(settings, params, statistics, pictures)
    alone, _ = judge(settings, params, statistics, pictures[:1])
    assert np.allclose(together[:1], alone, atol=1e-5) != settings.couples


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1)])
def test_blur_keeps_a_flat_picture(taps):
    x = jnp.ones((1, 12, 12, 2)) * jnp.array([1.0, -2.0])
    y = blur(x, taps)
    assert y.shape == (1, 6, 6, 2)
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], x[:, :4, :4], rtol=1e-6)


@pytest.mark.slow
def test_lpips_is_zero_at_home_and_grows_with_the_difference():
    params = init_lpips(KEY, (4, 4, 4, 4, 4))
    x = jax.random.uniform(KEY, (2, 16, 16, 3), minval=-1)
    noise = jax.random.normal(jax.random.key(1), x.shape)
    distances = np.stack([lpips(params, x, x + size * noise) for size in (0.0, 0.1, 0.5)])
    np.testing.assert_array_equal(distances[0], 0)
    assert (np.diff(distances, axis=0) > 0).all()
    np.testing.assert_allclose(lpips(params, x + 0.5 * noise, x), distances[2], rtol=1e-5)
