import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from unitok_jax.evaluation import metrics


def pictures(rng, n=6):
    return rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)


def test_psnr_is_that_of_scikit_image_for_each_picture():
    rng = np.random.default_rng(0)
    a, b = pictures(rng), pictures(rng)
    expected = [peak_signal_noise_ratio(x / 255, y / 255, data_range=1) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(metrics.psnr(b, a), expected, rtol=1e-12)
    assert np.isinf(metrics.psnr(a, a)).all()


def test_nearest_rmse_is_that_of_all_pairs():
    rng = np.random.default_rng(1)
    references = pictures(rng, 20)
    found = np.concatenate([pictures(rng), references[7:8], references[15:16] ^ 1])
    wide = found[:, None].astype(float) / 255 - references[None].astype(float) / 255
    expected = np.sqrt((wide**2).mean(axis=(2, 3, 4))).min(axis=1)
    chunks = [references[:8], references[8:9], references[9:]]
    np.testing.assert_allclose(metrics.nearest_rmse(found, chunks), expected, rtol=1e-5, atol=1e-7)
    assert expected[6] == 0 and expected[7] == pytest.approx(1 / 255)


def test_codebook_figures():
    codes = np.array([[[0, 0, 1, 1]], [[2, 2, 5, 5]]])
    histogram = metrics.code_histogram(codes, 8)
    assert histogram.tolist() == [2, 2, 2, 0, 0, 2, 0, 0]
    assert metrics.usage(histogram) == 0.5
    assert metrics.perplexity(histogram) == pytest.approx(4)
    assert metrics.perplexity(np.array([3, 1])) == pytest.approx(2 ** (2 - 0.75 * np.log2(3)))
