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
