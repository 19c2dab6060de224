"""Training checkpoints with a moving average: what has one is read as it."""

import numpy as np

from unitok_jax.weights.kinds import Split, Tie
from unitok_jax.weights.moving_average import with_averages
from unitok_jax.weights.source import InMemory

TENSORS = {
    "encoder.conv_in.weight": np.zeros(3),
    "model_ema.encoderconv_inweight": np.ones(3),
    "encoder.extra.bias": np.full(2, 5.0),
    "model_ema.decay": np.float32(0.999),
}


def test_averages_stand_in_for_what_they_average():
    source = with_averages(InMemory(TENSORS))
    assert list(source.keys()) == ["encoder.conv_in.weight", "encoder.extra.bias"]
    np.testing.assert_array_equal(source.read("encoder.conv_in.weight"), np.ones(3))
    np.testing.assert_array_equal(source.read("encoder.extra.bias"), np.full(2, 5.0))


def test_other_checkpoints_are_left_alone():
    source = InMemory({"model.weight": np.zeros(1)})
    assert with_averages(source) is source


def test_versions_of_a_tensor_need_not_be_equal():
    ours = Tie(equal=False).join([np.zeros(2), np.ones(2)], [(2,)])
    np.testing.assert_array_equal(ours[0], np.ones(2))
    parts = Split().join([np.zeros(3), np.arange(3)], [(1,), (2,)])
    np.testing.assert_array_equal(parts[1], [1, 2])
    assert Split().upstream_shapes(2, [(1,), (2,)]) == ((3,), (3,))
