"""Scenes of digits: splits, words, edits, tasks."""

import re

import numpy as np
import pytest

from unitok_jax.data import digits, scenes
from unitok_jax.data.scene_draws import SPLITS, categories, draw, edit
from unitok_jax.data.sources import open_source
from unitok_jax.data.tasks import to_example
from unitok_jax.errors import UserError

MANY = 240


def test_training_shows_no_held_out_scan_and_no_unseen_combination_not_even_in_edits():
    combined, scans = set(), set()
    for i in range(MANY):
        scene, _, rng = draw("train", 0, i)
        for shown in (scene, edit(scene, "train", rng)[1]):
            kinds = [(item.digit, item.colour) for item in shown]
            assert not set(kinds) & digits.UNSEEN_PAIRS
            numbers = sorted(digit for digit, _ in kinds)
            assert not {(a, b) for a in numbers for b in numbers} & scenes.UNSEEN_TOGETHER
            assert not {(n, numbers.count(n)) for n in numbers} & scenes.UNSEEN_COUNTS
            scans |= {item.scan for item in shown}
            combined |= {len(shown)}
    assert combined == {1, 2, 3, 4} and not any(digits.held_out(scan) for scan in scans)


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_is_a_function_of_split_seed_and_place(split):
    source, same, other = (open_source("digit_scenes", dict(split=split, seed=s, count=9), "x") for s in (3, 3, 4))
    records = [source[i] for i in range(9)]
    for i, record in enumerate(records):
        again = same[i]
        np.testing.assert_array_equal(record.pop("image"), again.pop("image"))
        np.testing.assert_array_equal(record.pop("target"), again.pop("target"))
        assert record == again
    assert [r["caption"] for r in records] != [other[i]["caption"] for i in range(9)]
    assert {r["category"] for r in records} == set(categories(split))


def test_every_category_asks_in_its_own_words():
    asked = {category: draw("held_out", 0, i)[1].text for i, category in enumerate(categories("held_out"))}
    colour, number, plural = ("|".join(words) for words in (digits.COLOUR_NAMES, digits.NUMBERS, scenes.PLURALS))
    one = f"a handwritten ({number})"
    forms = {
        "single_object": one,
        "two_objects": f"{one} and {one}",
        "counting": f"(two|three|four) handwritten ({plural})",
        "colours": f"a handwritten ({colour}) ({number})",
        "position": f"{one} (left of|right of|above|below) {one}",
        "attribute_binding": f"a handwritten ({colour}) ({number}) and a handwritten ({colour}) ({number})",
    }
    for category, text in asked.items():
        assert re.fullmatch(forms[category], text), f"{category}: {text}"


def test_a_caption_says_all_and_is_read_back():
    for i in range(60):
        scene, _, _ = draw("held_out", 1, i)
        assert scenes.parse_caption(scenes.caption(scene)) == {t.cell: (t.digit, t.colour) for t in scene}
    assert scenes.parse_caption("a red two somewhere") == {}


def test_edits_do_what_they_say():
    """An independent reader of the four instructions makes the same scene of the words alone."""
    kinds = set()
    for i in range(MANY):
        scene, _, rng = draw("held_out", 2, i)
        instruction, target = edit(scene, "held_out", rng)
        state = {scenes.CELLS[t.cell]: (digits.NUMBERS[t.digit], t.colour) for t in scene}
        words = instruction.split()
        kinds.add(words[0])
        if words[0] == "add":
            state[" ".join(words[-2:])] = words[3], words[2]
        elif words[0] == "remove":
            del state[" ".join(words[-2:])]
        elif words[0] == "make":
            where = " ".join(words[5:7])
            state[where] = state[where][0], words[-1]
        else:
            where = " ".join(words[5:7])
            state[where] = words[-1], state[where][1]
        assert {scenes.CELLS[t.cell]: (digits.NUMBERS[t.digit], t.colour) for t in target} == state, instruction
    assert kinds == {"add", "remove", "make", "change"}


def test_questions_are_answered_by_the_caption():
    for i in range(60):
        scene, _, _ = draw("train", 5, i)
        told = scenes.parse_caption(scenes.caption(scene))
        for question, answer in zip(*scenes.questions(scene), strict=True):
            if question.startswith("how many"):
                assert scenes.COUNTS.index(answer) == len(told)
            elif question.startswith("where"):
                (cell,) = [c for c, (d, _) in told.items() if digits.NUMBERS[d] == question.split()[-1][:-1]]
                assert scenes.CELLS[cell] == answer


def test_every_task_reads_the_records():
    record = open_source("digit_scenes", dict(split="train"), "x")[0]
    rng = np.random.default_rng(0)
    pictures = {"caption": 1, "question": 1, "generate": 1, "edit": 2, "variation": 2, "image": 1}
    for task, count in pictures.items():
        example = to_example(task, record, (), rng)
        assert [image.shape for image in example.images] == [(32, 32, 3)] * count
    with pytest.raises(UserError, match=r"no split 'test'. Known: held_out, train, unseen"):
        open_source("digit_scenes", dict(split="test"), "x")
    with pytest.raises(UserError, match="a multiple of 32"):
        open_source("digit_scenes", dict(size=40), "x")
