"""Figures of merit on pictures and codes, computed on the host with numpy."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, UInt8


def psnr(pictures: UInt8[np.ndarray, "B H W C"], references: UInt8[np.ndarray, "B H W C"]) -> Float[np.ndarray, " B"]:
    """Peak signal-to-noise ratio of each picture, in dB, on values scaled to [0, 1]; infinite for equal pictures."""
    error = (pictures.astype(np.float64) - references.astype(np.float64)) / 255
    mean_square = np.mean(error**2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mean_square)


def nearest_rmse(
    pictures: UInt8[np.ndarray, "B H W C"], references: Iterable[UInt8[np.ndarray, "_ H W C"]]
) -> Float[np.ndarray, " B"]:
    """Root mean square distance, on [0, 1], from each picture to the nearest of all references.

    The search expands |a - b|² into one matrix product a chunk of references; the distance to the winner is then
    taken directly, because the expansion loses its digits where the two pictures are nearly equal.

    Args:
        pictures: what is searched for.
        references: chunks of pictures, each small enough for memory.
    """
    found = _flat(pictures)
    best = np.full(len(found), np.inf, np.float32)
    for chunk in references:
        known = _flat(chunk)
        # |a|² is the same for every reference, so it does not change which one is nearest.
        nearest = np.argmin(np.sum(known**2, axis=1) - 2 * found @ known.T, axis=1)
        best = np.minimum(best, np.sqrt(np.mean((found - known[nearest]) ** 2, axis=1)))
    return best


def _flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1).astype(np.float32) / 255


def code_histogram(codes: Int[np.ndarray, "..."], entries: int) -> Int[np.ndarray, " E"]:
    """How often each of a codebook's entries is used."""
    return np.bincount(np.asarray(codes).ravel(), minlength=entries)


def usage(histogram: Int[np.ndarray, " E"]) -> float:
    """The share of entries used at least once, in [0, 1]."""
    return float(np.mean(np.asarray(histogram) > 0))


def perplexity(histogram: Int[np.ndarray, " E"]) -> float:
    """The exponential of the histogram's entropy: how many equally used entries would be as varied."""
    shares = np.asarray(histogram, np.float64) / np.sum(histogram)
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def reconstruction_psnr(
    pictures: Float[np.ndarray, "B H W C"], references: Float[np.ndarray, "B H W C"]
) -> Float[np.ndarray, " B"]:
    """`psnr` of pictures in [-1, 1], clipped; 1e-8 added to the error, as DualToken's evaluation has it."""
    error = _unit_range(pictures) - _unit_range(references)
    return -10 * np.log10(np.mean(error**2, axis=(1, 2, 3)) + 1e-8)


def ssim(
    pictures: Float[np.ndarray, "B H W C"],
    references: Float[np.ndarray, "B H W C"],
    window: int = 11,
    sigma: float = 1.5,
    k: tuple[float, float] = (0.01, 0.03),
) -> Float[np.ndarray, " B"]:
    """Structural similarity (Wang et al. 2004) of pictures in [-1, 1], clipped: Gaussian window, no padding,
    mean over positions and channels (as the package ``pytorch_msssim`` with its defaults)."""
    a, b = _unit_range(pictures), _unit_range(references)
    offsets = np.arange(window) - window // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    taps /= taps.sum()
    mean_a, mean_b = _blur(a, taps), _blur(b, taps)
    var_a, var_b = _blur(a * a, taps) - mean_a**2, _blur(b * b, taps) - mean_b**2
    covariance = _blur(a * b, taps) - mean_a * mean_b
    c1, c2 = k[0] ** 2, k[1] ** 2
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    likeness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast
    return likeness.mean(axis=(1, 2)).mean(axis=-1)


def _unit_range(pictures: np.ndarray) -> np.ndarray:
    return (np.clip(np.asarray(pictures, np.float64), -1, 1) + 1) / 2


def _blur(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Convolves rows and columns with `taps`, where the whole window fits; sides shorter than it stay as they are."""
    for axis in (1, 2):
        if x.shape[axis] >= len(taps):
            x = np.lib.stride_tricks.sliding_window_view(x, len(taps), axis=axis) @ taps
    return x


def kl_to_uniform(histogram: Int[np.ndarray, " E"]) -> float:
    """Kullback-Leibler divergence, in nats, of the codes' frequencies from equal ones."""
    shares = np.asarray(histogram, np.float64) / np.sum(histogram)
    shares = shares[shares > 0]
    return float(np.sum(shares * np.log(shares)) + np.log(len(histogram)))


def entropy_fraction(histogram: Int[np.ndarray, " E"]) -> float:
    """Entropy of the codes' frequencies as a share of its largest value, in [0, 1]."""
    return 1 - kl_to_uniform(histogram) / float(np.log(len(histogram)))


def code_entropy(codes: Int[np.ndarray, "B n"]) -> Float[np.ndarray, " B"]:
    """Entropy, in bits, of each picture's own codes."""
    return np.array([np.log2(perplexity(np.bincount(row))) for row in np.asarray(codes).reshape(len(codes), -1)])
