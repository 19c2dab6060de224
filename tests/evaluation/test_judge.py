import time

import numpy as np
import pytest
from scipy import ndimage

from unitok_jax.data import digits
from unitok_jax.evaluation.judge import Judge, Verdict, judge
from unitok_jax.evaluation.reading import pictures_of

SCANS = digits.split("held_out")
PIXELS = digits.SIZE // 16


def accuracy(pictures):
    verdicts = judge()(pictures)
    shown = [(digits.digit(i), colour) for i, colour in SCANS]
    return np.mean([(v.digit, v.colour) == truth for v, truth in zip(verdicts, shown, strict=True)])


def test_it_knows_real_digits_that_it_never_saw():
    assert accuracy(pictures_of(SCANS)) >= 0.985


@pytest.mark.parametrize("change", ["shifted", "blurred", "noisy", "dim"])
def test_it_is_not_thrown_by_what_a_decoder_does_to_pictures(change):
    pictures = pictures_of(SCANS).astype(np.float32)
    changed = {
        "shifted": lambda: np.roll(pictures, (PIXELS, PIXELS), (1, 2)),
        "blurred": lambda: ndimage.gaussian_filter(pictures, (0, 0.7 * PIXELS, 0.7 * PIXELS, 0)),
        "noisy": lambda: pictures + np.random.default_rng(0).normal(0, 25, pictures.shape),
        "dim": lambda: pictures / 2,
    }[change]()
    assert accuracy(np.clip(changed, 0, 255).astype(np.uint8)) >= 0.95


def test_it_learns_from_training_scans_only_and_without_chance(monkeypatch):
    rendered = []
    render = digits.render
    monkeypatch.setattr(digits, "render", lambda i, colour: rendered.append(i) or render(i, colour))
    started = time.process_time()
    again = Judge()
    assert time.process_time() - started < 5
    assert not any(digits.held_out(i) for i in rendered)
    pictures = pictures_of(SCANS[:40])
    assert again(pictures) == judge()(pictures)


def test_a_dark_picture_shows_nothing():
    assert judge()(np.full((1, digits.SIZE, digits.SIZE, 3), 9, np.uint8)) == [Verdict(None, None)]


@pytest.mark.parametrize("colour", digits.COLOUR_NAMES)
def test_every_colour_is_told_from_the_others_under_noise(colour):
    rng = np.random.default_rng(1)
    pictures = np.stack([digits.render(i, colour) for i in range(0, 240, 12)])
    noisy = np.clip(pictures + rng.normal(0, 30, pictures.shape), 0, 255).astype(np.uint8)
    assert {verdict.colour for verdict in judge()(noisy)} == {colour}
