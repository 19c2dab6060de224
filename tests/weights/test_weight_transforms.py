"""Every transform against plain numpy, back and forth, with shapes told in advance."""

import numpy as np
import pytest

from unitok_jax.errors import UserError
from unitok_jax.weights import transforms as tr

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


W = normal(6, 4)
CASES = [
    (tr.SAME, W, W),
    (tr.LINEAR, W, W.T),
    (tr.CONV, x := normal(5, 3, 2, 4), np.einsum("oihw->hwio", x)),
    (tr.POINTWISE, x := normal(5, 3, 1, 1), x[:, :, 0, 0].T),
    (tr.HEADS_IN, W, np.stack([W[:3].T, W[3:].T], 1)),
    (tr.HEADS_OUT, W.T, np.stack([W[:3], W[3:]])),
    (tr.HEADS_BIAS, W[:, 0], W[:, 0].reshape(2, 3)),
    (tr.vocabulary(6), W, np.concatenate([W, np.zeros((2, 4), np.float32)])),
    (tr.vocabulary_head(6), W, np.concatenate([W.T, np.zeros((4, 2), np.float32)], 1)),
    (tr.Unsqueeze((0, 2)), x := normal(1, 3, 1), x[0, :, 0]),
    (tr.Expand(2), W[:2], W[[0, 0, 0, 1, 1, 1]]),
    (tr.Collapse(6), W[[0, 0, 0, 1, 1, 1]], W[:2]),
    (tr.Unsqueezed(0), W[:, 0], W[:, 0][None]),
    (tr.HalfSplit(4), x := normal(8, 3), x[[0, 2, 1, 3, 4, 6, 5, 7]]),
    (tr.HalfSplit(6), x := normal(6), x[[0, 2, 4, 1, 3, 5]]),
]


@pytest.mark.parametrize(("transform", "upstream", "ours"), CASES)
def test_transform_and_its_inverse(transform, upstream, ours):
    assert transform.upstream_shape(ours.shape) == upstream.shape
    np.testing.assert_array_equal(transform.to_ours(upstream, ours.shape), ours)
    np.testing.assert_array_equal(transform.to_upstream(ours), upstream)


@pytest.mark.parametrize("transform", [tr.Expand(2).to_upstream, lambda x: tr.Collapse(6).to_ours(x, (2, 4))])
def test_rows_that_differ_do_not_collapse(transform):
    with pytest.raises(UserError, match="rows of one run differ"):
        transform(W)


def test_zero_rows_are_asserted_and_written_back():
    rows, transform = np.arange(6.0).reshape(2, 3), tr.ZeroRows(1)
    theirs = transform.to_upstream(rows)
    assert theirs.shape == transform.upstream_shape(rows.shape) == (3, 3)
    assert np.array_equal(transform.to_ours(theirs, rows.shape), rows)
    with pytest.raises(UserError, match="last 1 of 3 rows must be zeros"):
        transform.to_ours(theirs + 1, rows.shape)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_row_major_copies_are_the_array(axes, monkeypatch):
    monkeypatch.setattr(tr, "STRIP", 300)  # a row and a half
    x = normal(7, 5, 9).transpose(axes)
    copy = tr.row_major(x)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, x)


def test_row_major_keeps_scalars_and_empty_arrays():
    assert tr.row_major(np.float32(2.5)[...]).shape == ()
    assert tr.row_major(np.zeros((3, 0, 2)).transpose(2, 1, 0)).shape == (2, 0, 3)


@pytest.mark.parametrize("size", [4, 9])
def test_another_models_table_is_cut_or_grown(size):
    """Rows that both have stay; new ones lie about the mean; the padding is zeros; a head is the same, turned."""
    embed, head = tr.resized_vocabulary(6, size)
    assert embed.upstream_shape((12, 4)) == head.upstream_shape((4, 12)) == (6, 4)
    ours = embed.to_ours(W, (12, 4))
    np.testing.assert_array_equal(ours, head.to_ours(W, (4, 12)).T)
    kept = min(6, size)
    np.testing.assert_array_equal(ours[:kept], W[:kept])
    assert not ours[size:].any()
    np.testing.assert_allclose(ours[kept:size], np.broadcast_to(W.mean(0), (size - kept, 4)), atol=5e-4)
    assert len(np.unique(ours[:size], axis=0)) == size
    with pytest.raises(UserError, match="6 rows cannot be written"):
        embed.to_upstream(ours)
