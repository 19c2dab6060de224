import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.sampling import filters


def _top_k(row, k):
    """By sorting; strictly below the k-th largest goes."""
    if not 0 < k < len(row):
        return row
    return np.where(row >= np.sort(row)[-k], row, -np.inf)


def _top_p(row, p):
    """By sorting: ids in falling order until p is reached, the crossing one included."""
    order = np.argsort(-row, kind="stable")
    exp = np.exp(row.astype(np.float64) - row.max())
    mass = np.cumsum(exp[order] / exp.sum())
    kept = order[: int(np.argmax(mass >= p)) + 1] if p < 1 else order
    return np.where(np.isin(np.arange(len(row)), kept), row, -np.inf)


@pytest.fixture(scope="module")
def logits():
    values = np.random.default_rng(0).normal(scale=5, size=(6, 300)).astype(np.float32)
    values[1, :20] = 3.0  # ties
    values[2, 100:] = -np.inf
    values[3] = np.abs(values[3])
    values[4] = -np.abs(values[4])
    values[5, ::2] = 0.0
    values[5, 1::4] = -0.0
    return values


@pytest.mark.parametrize("k", [0, 1, 2, 7, 30, 299, 300, 1000])
def test_top_k_equals_sorting(logits, k):
    np.testing.assert_array_equal(filters.keep_top_k(logits, k), [_top_k(row, k) for row in logits])


def test_top_k_by_row_and_traced_needs_one_program(logits):
    program = jax.jit(filters.keep_top_k)
    for ks in ([1, 2, 3, 4, 5, 0], [0, 300, 17, 9, 1, 1000]):
        expected = [_top_k(row, k) for row, k in zip(logits, ks, strict=True)]
        np.testing.assert_array_equal(program(logits, jnp.asarray(ks)), expected)
    assert program._cache_size() == 1


def test_top_k_keeps_ties_with_the_kth():
    row = np.array([[4.0, 4.0, 4.0, 1.0, 5.0]], np.float32)
    assert np.isfinite(filters.keep_top_k(row, 2)).tolist() == [[True, True, True, False, True]]


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_top_p_equals_sorting(logits, p):
    rows = logits[[0, 2, 3, 4]]
    np.testing.assert_array_equal(filters.keep_top_p(rows, p), [_top_p(row, p) for row in rows])


def test_top_p_keeps_the_id_that_crosses():
    row = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    assert np.isfinite(filters.keep_top_p(row, 0.6)).tolist() == [[True, True, False, False]]
    assert np.isfinite(filters.keep_top_p(row, 0.01)).tolist() == [[True, False, False, False]]


def test_top_p_by_row(logits):
    ps = jnp.array([0.2, 1.0, 0.7])
    got = filters.keep_top_p(logits[[0, 2, 3]], ps)
    expected = [_top_p(row, float(p)) for row, p in zip(logits[[0, 2, 3]], ps, strict=True)]
    np.testing.assert_array_equal(got, expected)


def test_allowed_and_forced():
    logits = jnp.arange(8.0).reshape(2, 4)
    allowed = filters.keep_allowed(logits, jnp.array([[True, False, True, False]]))
    np.testing.assert_array_equal(allowed, [[0, -np.inf, 2, -np.inf], [4, -np.inf, 6, -np.inf]])
    forced = filters.force(logits, jnp.array([1, 2]), jnp.array([True, False]))
    np.testing.assert_array_equal(forced, [[-np.inf, 0, -np.inf, -np.inf], [4, 5, 6, 7]])
