"""What the benchmarks measure with: turns, the guard against compiling, the search for the largest batch."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.contest import fits_in_memory, largest, race
from benchmarks.report import table


def test_contestants_take_turns():
    order = []
    times = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm_up=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert all(len(t.seconds) == len(t.cpu) == 3 for t in times.values())


def test_no_time_is_given_where_something_compiled():
    sizes = itertools.count(1)
    with pytest.raises(RuntimeError, match="compiled"):
        race({"ours": lambda: jax.jit(lambda x: x + 1)(jnp.zeros(next(sizes)))}, rounds=2, warm_up=1)


@pytest.mark.parametrize("most", [0, 1, 2, 37, 64, 100])
def test_the_largest_size_that_fits(most):
    assert largest(lambda size: size <= most, limit=64) == min(most, 64)


def test_only_a_lack_of_memory_is_a_size_too_large():
    def fail(text):
        raise ValueError(text)

    assert fits_in_memory(lambda: None, [ValueError])
    assert not fits_in_memory(lambda: fail("RESOURCE_EXHAUSTED: 9 GiB"), [ValueError])
    with pytest.raises(ValueError, match="shapes"):
        fits_in_memory(lambda: fail("shapes differ"), [ValueError])


def test_rows_with_different_columns_make_one_table():
    assert table([{"a": "1"}, {"b": "2"}]) == ["| a | b |", "| --- | --- |", "| 1 |  |", "|  | 2 |"]
