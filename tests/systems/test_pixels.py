import jax.numpy as jnp
import numpy as np

from unitok_jax.systems.pixels import float_pixels, to_uint8


def test_pixels_become_floats():
    pixels = float_pixels({"pixels": {"a": jnp.array([[[0, 255, 255]]], jnp.uint8)}})["pixels"]["a"]
    np.testing.assert_allclose(pixels, [[[-1, 1, 1]]])


def test_a_batch_without_pictures_stays():
    assert float_pixels({"tokens": 3}) == {"tokens": 3}


def test_floats_become_pixels_clamped():
    np.testing.assert_array_equal(to_uint8(jnp.array([[[-3.0, 0, 2]]])), [[[0, 127, 255]]])
