"""The chunked vocabulary loss against the plain one, and what it must not do."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.losses.vocabulary import sum_by_group, vocabulary_loss

N, D, V, COLUMNS = 11, 8, 300, 512
RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(D, COLUMNS)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, V, N), jnp.int32)
WEIGHTS = jnp.asarray(np.arange(N) % 3, jnp.float32)  # 0, 1, 2, 0, ...


def plain(hidden, kernel, targets=TARGETS):
    logits = (hidden @ kernel)[:, :V]
    logsumexp = jax.nn.logsumexp(logits, -1)
    return logsumexp - jnp.take_along_axis(logits, targets[:, None], -1)[:, 0], logsumexp, jnp.argmax(logits, -1)


def total(nll, logsumexp):
    return jnp.sum(WEIGHTS * (nll + 0.1 * logsumexp**2))


@pytest.mark.parametrize("chunk", [4096, 256, 100, 64])
def test_values_and_gradients_are_the_plain_ones(chunk):
    def ours(hidden, kernel):
        loss = vocabulary_loss(hidden, kernel, TARGETS, WEIGHTS, V, chunk)
        return total(loss.nll, loss.logsumexp), loss

    (value, loss), grads = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(HIDDEN, KERNEL)
    expected, expected_grads = jax.value_and_grad(lambda h, k: total(*plain(h, k)[:2]), (0, 1))(HIDDEN, KERNEL)
    used = np.asarray(WEIGHTS) != 0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours_, expected_ in zip((*loss[:2], *grads), (*plain(HIDDEN, KERNEL)[:2], *expected_grads), strict=True):
        keep = used if ours_.shape[:1] == (N,) else slice(None)
        np.testing.assert_allclose(ours_[keep], expected_[keep], atol=2e-5 * float(jnp.abs(expected_).max()))
    np.testing.assert_array_equal(loss.correct[used], (plain(HIDDEN, KERNEL)[2] == TARGETS)[used])
    np.testing.assert_array_equal(grads[1][:, V:], 0)


@pytest.mark.parametrize("chunk", [4096, 64])
def test_correct_means_the_lowest_of_equals(chunk):
    kernel = jnp.zeros((D, COLUMNS)).at[:, 100].set(1.0).at[:, 37].set(1.0)
    targets = jnp.asarray([37, 100, 0])
    loss = vocabulary_loss(jnp.ones((3, D)), kernel, targets, jnp.ones(3), V, chunk)
    np.testing.assert_array_equal(loss.correct, [True, False, False])
    loss = vocabulary_loss(jnp.zeros((2, D)), kernel, jnp.asarray([0, 1]), jnp.ones(2), V, chunk)
    np.testing.assert_array_equal(loss.correct, [True, False])
    np.testing.assert_allclose(loss.nll, np.log(V), rtol=1e-6)


def test_unused_positions_cost_nothing():
    """Neither NaN nor an impossible target at a position of weight 0 shows in any value or gradient."""
    hidden = HIDDEN.at[0].set(jnp.nan)
    targets = TARGETS.at[3].set(-100)

    def ours(hidden, kernel):
        loss = vocabulary_loss(hidden, kernel, targets, WEIGHTS, V, 64)
        return total(loss.nll, loss.logsumexp)

    value, (d_hidden, d_kernel) = jax.value_and_grad(ours, (0, 1))(hidden, KERNEL)
    assert np.isfinite(value) and np.isfinite(d_hidden).all() and np.isfinite(d_kernel).all()
    np.testing.assert_array_equal(d_hidden[0], 0)
    np.testing.assert_array_equal(d_hidden[3], 0)


def test_half_precision_hidden_states_get_float32_sums():
    hidden = HIDDEN.astype(jnp.bfloat16)
    kernel = KERNEL.astype(jnp.bfloat16).astype(jnp.float32)
    loss = vocabulary_loss(hidden, kernel, TARGETS, jnp.ones(N), V, 64)
    nll, logsumexp, _ = plain(hidden.astype(jnp.float32), kernel)
    assert loss.nll.dtype == jnp.float32
    np.testing.assert_allclose(loss.nll, nll, atol=1e-4)
    np.testing.assert_allclose(loss.logsumexp, logsumexp, atol=1e-4)


def test_logits_never_exist_whole():
    def loss(hidden, kernel, targets, weights):
        return vocabulary_loss(hidden, kernel, targets, weights, 65536, 1024).nll.sum()

    n, width = 1024, 16
    shapes = [(n, width), (width, 65536), (n,), (n,)]
    dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    arguments = [jax.ShapeDtypeStruct(*x) for x in zip(shapes, dtypes, strict=True)]
    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(*arguments)
    assert max(_sizes(program.jaxpr)) == n * 1024  # a chunk of logits, as large here as the head


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _sizes(inner)


def test_rows_of_positions_are_scored_as_one_row():
    def ours(hidden, kernel, rows):
        shape = (rows, N // rows)
        weights, targets = WEIGHTS.reshape(shape), TARGETS.reshape(shape)
        loss = vocabulary_loss(hidden.reshape(*shape, D), kernel, targets, weights, V, 64)
        sums = sum_by_group(loss, weights, targets % 3, 3)
        return sums.nll[0] + 0.1 * sums.z.sum(), (sums, loss)

    runs = [jax.value_and_grad(ours, (0, 1), has_aux=True)(HIDDEN, KERNEL, rows) for rows in (1, N)]
    for one, other in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-5, atol=1e-6)


def test_sums_by_group():
    loss = vocabulary_loss(HIDDEN, KERNEL, TARGETS, WEIGHTS, V)
    groups = jnp.asarray(np.arange(N) % 4, jnp.int32)
    sums = sum_by_group(loss, WEIGHTS, groups, 4)
    for group in range(4):
        here = np.asarray(groups) == group
        weights = np.asarray(WEIGHTS)[here]
        np.testing.assert_allclose(sums.nll[group], (weights * loss.nll[here]).sum(), rtol=1e-5)
        np.testing.assert_allclose(sums.z[group], (weights * loss.logsumexp[here] ** 2).sum(), rtol=1e-5)
        np.testing.assert_allclose(sums.correct[group], (weights * loss.correct[here]).sum(), rtol=1e-5)
        np.testing.assert_allclose(sums.weight[group], weights.sum())
        np.testing.assert_allclose(sums.count[group], (weights != 0).sum())
