"""An independent judge of digit pictures: what it sees depends on no trained model of ours.

It learns from the real training scans only, so it may judge held-out, reconstructed and generated pictures alike.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage
from sklearn.svm import SVC

from unitok_jax.data import digits

_SIDE = 16  # pixels a side of what the classifier reads
_DARK = 0.1  # below this brightness a picture shows nothing
_UNIT = digits.SIZE // _SIDE
_SHIFTS = ((0, 0), (_UNIT, 0), (-_UNIT, 0), (0, _UNIT), (0, -_UNIT))
_BLUR = 0.6 * _UNIT


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture; both None where it is dark throughout."""

    digit: int | None
    colour: str | None


class Judge:
    """Says which digit a picture shows and in which colour.

    The digit: a support vector classifier on brightness, scaled to the picture's own brightest strokes. The colour:
    the entry of `digits.COLOURS` whose direction in RGB space is nearest to that of the strokes.
    """

    def __init__(self) -> None:
        """Trains on every training scan, also shifted and blurred; about two seconds, no randomness."""
        indices = [i for i in range(len(digits.load()[0])) if not digits.held_out(i)]
        plain = _brightness(np.stack([digits.render(i, "white") for i in indices]))
        seen = [np.roll(plain, shift, axis=(1, 2)) for shift in _SHIFTS]
        seen.append(ndimage.gaussian_filter(plain, (0, _BLUR, _BLUR)))
        targets = np.array([digits.digit(i) for i in indices])
        self._classifier = SVC(C=10.0, gamma="scale").fit(_read(np.concatenate(seen)), np.tile(targets, len(seen)))

    def __call__(self, pictures: UInt8[np.ndarray, "B H W 3"]) -> list[Verdict]:
        """Judges each picture, `digits.SIZE` pixels a side."""
        brightness = _brightness(pictures)
        shown = brightness.max(axis=(1, 2)) > _DARK
        seen = self._classifier.predict(_read(brightness))
        colours = _colours(pictures, brightness)
        return [
            Verdict(int(digit), colour) if lit else Verdict(None, None)
            for digit, colour, lit in zip(seen, colours, shown, strict=True)
        ]


@functools.cache
def judge() -> Judge:
    """The one judge of this process, trained at the first call."""
    return Judge()


def _brightness(pictures: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B H W"]:
    """The largest channel, 0..1: the same for every colour of the table, nearly."""
    return pictures.max(axis=-1).astype(np.float32) / 255


def _read(brightness: Float[np.ndarray, "B H W"]) -> Float[np.ndarray, "B n"]:
    """Small pictures, their strokes at full brightness, as vectors."""
    rows = brightness.shape[1] // _SIDE
    small = brightness.reshape(len(brightness), _SIDE, rows, _SIDE, rows).mean(axis=(2, 4))
    full = np.quantile(small, 0.98, axis=(1, 2), keepdims=True)
    return np.minimum(small / np.maximum(full, _DARK), 1).reshape(len(small), -1)


def _colours(pictures: np.ndarray, brightness: np.ndarray) -> list[str]:
    """The nearest colour of the table to the mean of each picture's bright half."""
    bright = brightness >= 0.5 * brightness.max(axis=(1, 2), keepdims=True)
    mean = (pictures * bright[..., None]).sum(axis=(1, 2), dtype=np.float64) + 1e-9
    table = np.array(list(digits.COLOURS.values()), np.float64)
    nearest = np.argmax(_unit(mean) @ _unit(table).T, axis=1)
    return [digits.COLOUR_NAMES[i] for i in nearest]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
