"""Edits of digits say what they show."""

import numpy as np
import pytest

from unitok_jax.data import digits
from unitok_jax.data.sources.digit_edits import Source
from unitok_jax.errors import UserError


def test_an_edit_shows_what_it_says():
    source = Source()
    colour, digit = source[200], source[201]
    assert colour["instruction"] == f"make it {colour['colour']}"
    lit = colour["target"].max(-1) > 0
    np.testing.assert_array_equal(lit, colour["image"].max(-1) > 0)
    assert digit["instruction"].endswith(f"to a {digits.NUMBERS[digit['digit']]}")
    assert not np.array_equal(digit["image"], digit["target"])
    np.testing.assert_array_equal(source[201]["target"], digit["target"])


def test_no_unseen_pair_is_shown():
    source = Source()
    shown = {(source[i]["digit"], source[i]["colour"]) for i in range(0, len(source), 97)}
    assert not shown & digits.UNSEEN_PAIRS


def test_an_unknown_split_is_told():
    with pytest.raises(UserError, match="no split 'test'"):
        Source("test")
