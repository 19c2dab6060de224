"""Codes that came with an example, and examples that a stage cannot use."""

import numpy as np
import pytest

from unitok_jax.data.example import BadExample, Example, Task
from unitok_jax.systems import tower_stage
from unitok_jax.systems.codes import stacked


def coded(*codes):
    return Example("r:1", (), codes=tuple(map(np.asarray, codes)))


def test_codes_of_all_pictures_are_stacked():
    read = stacked(coded(np.arange(6, dtype=np.uint8), np.arange(6).reshape(2, 3)), (-1, 3), 256)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, [[[0, 1, 2], [3, 4, 5]]] * 2)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (coded([1, 2, 3], [1, 2]), r"codes \(3,\), \(2,\), expected \(-1,\) a picture"),
        (coded([1, 256]), r"code 256, the tokenizer has 256"),
        (coded([2**40]), r"code 1099511627776, the tokenizer has 256"),
    ],
)
def test_codes_that_do_not_fit_are_bad(example, words):
    with pytest.raises(BadExample, match=words) as told:
        stacked(example, (-1,), 256)
    assert told.value.reason == "no precomputed codes" and "r:1" in told.value.detail


def test_codes_that_do_not_come_in_the_depth_are_bad():
    with pytest.raises(BadExample, match=r"codes \(5,\), expected \(-1, 2\) a picture"):
        stacked(coded([1, 2, 3, 4, 5]), (-1, 2), 256)


def test_a_picture_without_words_is_no_example_of_the_tower():
    example = Example("r:1", (), (np.zeros((4, 4, 3), np.uint8),), Task.NONE)
    with pytest.raises(BadExample, match="r:1: the tower learns from captions"):
        tower_stage._layout(None, "vit", example, np.random.default_rng(0))
