from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unitok_jax.data import digits
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError


def source(**options):
    return open_source("digits", options, "config.data.train[0]")


def test_the_scans_are_those_of_scikit_learn():
    scans, theirs = digits.load(), load_digits()
    np.testing.assert_array_equal(scans[0], np.round(theirs.images * (255 / 16)))
    np.testing.assert_array_equal(scans[1], theirs.target)


def test_held_out_is_every_sixth_scan_once():
    held = source(split="held_out")
    records = [held[i] for i in range(len(held))]
    assert [r["index"] for r in records] == list(range(0, 1797, 6))
    counts = Counter(r["colour"] for r in records)
    assert set(counts) == set(digits.COLOUR_NAMES)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_train_has_no_held_out_scan_and_no_unseen_pair():
    train = source()
    pairs = digits.split("train")
    assert len(train) == len(pairs) == len(set(pairs))
    assert all(index % 6 for index, _ in pairs)
    seen = Counter((digits.digit(index), colour) for index, colour in pairs)
    assert not digits.UNSEEN_PAIRS & set(seen)
    assert len(seen) == 80 - 6
    excluded = sum(digits.digit(i) == d for i in range(1797) if i % 6 for d, _ in digits.UNSEEN_PAIRS)
    assert len(train) == 1497 * 8 - excluded


def test_unseen_pairs_are_six_digits_in_six_colours():
    assert len({digit for digit, _ in digits.UNSEEN_PAIRS}) == 6
    assert len({colour for _, colour in digits.UNSEEN_PAIRS}) == 6


def test_render_is_the_scan_in_one_colour():
    picture = digits.render(17, "orange", 32)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert picture[..., 2].max() == 0
    assert picture[..., 0].max() >= 240
    strong = picture[..., 0] > 100
    np.testing.assert_allclose(picture[strong][:, 1] / picture[strong][:, 0], 130 / 255, atol=0.02)
    white = digits.render(17, "white", 64)
    assert white.shape == (64, 64, 3)
    scan = digits.load()[0][17].astype(float)
    coarse = white[..., 0].reshape(8, 8, 8, 8).mean((1, 3))
    assert np.corrcoef(scan.ravel(), coarse.ravel())[0, 1] > 0.97


def test_colours_are_far_apart():
    colours = np.array(list(digits.COLOURS.values()), float)
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert gaps[~np.eye(8, dtype=bool)].min() > 100


@pytest.mark.parametrize("digit", range(10))
def test_captions_read_back(digit):
    for colour in digits.COLOUR_NAMES:
        assert digits.parse_caption(digits.caption(digit, colour)) == (digit, colour)


def test_caption_with_nothing_or_too_much():
    assert digits.parse_caption("a cat") == (None, None)
    assert digits.parse_caption("a red or blue seven") == (7, None)
    assert digits.parse_caption("someone wrote a Green, four!") == (4, "green")


def test_record_says_what_it_shows():
    record = source()[100]
    assert record["caption"] == digits.caption(record["digit"], record["colour"])
    assert record["answers"] == [record["colour"], digits.NUMBERS[record["digit"]]]
    assert record["label"] == digits.digit(record["index"])


def test_unknown_split():
    with pytest.raises(UserError, match="no split 'test'"):
        source(split="test")


def test_shifted_pictures_come_once_each_way():
    plain, moved = open_source("digits", {}, "here"), open_source("digits", {"shift": 1}, "here")
    assert len(moved) == 9 * len(plain)
    picture = plain[5]["image"]
    places = [moved[5 * 9 + i]["image"] for i in range(9)]
    assert np.array_equal(places[4], picture)
    assert np.array_equal(places[0][:-1, :-1], picture[1:, 1:])
    assert np.array_equal(places[8][1:, 1:], picture[:-1, :-1])
    assert not places[8][0].any() and not places[8][:, 0].any()
    assert moved[5 * 9]["caption"] == plain[5]["caption"]
