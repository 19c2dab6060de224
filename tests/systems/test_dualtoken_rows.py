"""DualToken's rows against the sequences that the design writes out, and what its views and decodes read."""

import dataclasses

import numpy as np
import pytest

from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.rows import DRAW, Modality
from unitok_jax.errors import UserError
from unitok_jax.systems.dualtoken import decoding, images, layout, vocabulary

PICTURE = np.zeros((8, 8, 3), np.uint8)
WORDS = vocabulary.Vocabulary(vocabulary.TokenIds(), 151936, lambda text: [ord(c) for c in text], lambda ids: "")
PLAIN = layout.Template(WORDS, 3, system="")
START, END, SEE, SEEN, PAD = 151644, 151645, 151652, 151653, 151655
BLOCK = [SEE, PAD, PAD, PAD, SEEN]


def text(words):
    return [ord(c) for c in words]


def example(*turns, images=1, task=Task.UNDERSTANDING):
    return Example("e", tuple(Turn(*turn) for turn in turns), (PICTURE,) * images, task)


def test_question_row_learns_the_answer_alone():
    row = layout.conversation(example(("user", IMAGE + "hm"), ("assistant", "cat")), PLAIN)
    asked = [START, *text("user\n"), *BLOCK, *text("\nhm"), END, *text("\n"), START, *text("assistant\n")]
    assert row.tokens.tolist() == [*asked, *text("cat"), END, *text("\n")]
    learnt = np.flatnonzero(row.loss_weights)
    assert row.targets[learnt].tolist() == [*text("cat"), END]
    assert learnt.tolist() == list(range(len(asked) - 1, len(asked) + 3))
    assert row.slots[row.modality == Modality.CODE].tolist() == [0, 1, 2]


@pytest.mark.parametrize("learn_start", [False, True])
def test_drawing_row_learns_positions_and_ends(learn_start):
    template = dataclasses.replace(PLAIN, learn_start=learn_start)
    drawn = example(("user", "dog"), ("assistant", IMAGE), task=Task.GENERATION)
    row = layout.conversation(drawn, template)
    asked = [START, *text("user\ndog"), END, *text("\n"), START, *text("assistant\n")]
    assert row.tokens.tolist() == [*asked, *BLOCK, END, *text("\n")]
    wanted = [*([SEE] if learn_start else []), DRAW, DRAW, DRAW, SEEN, END]
    assert row.targets[row.loss_weights > 0].tolist() == wanted
    prompt = layout.prompt(dataclasses.replace(drawn, turns=drawn.turns[:1], images=()), template)
    assert prompt.tokens.tolist() == [*asked, SEE]


def test_guidance_compares_with_an_empty_request():
    drawn = example(("user", IMAGE + "more"), ("assistant", IMAGE), images=2, task=Task.GENERATION)
    row = layout.conversation(layout.unasked(drawn), PLAIN)
    asked = [START, *text("user\n"), END, *text("\n"), START, *text("assistant\n")]
    assert row.tokens.tolist() == [*asked, *BLOCK, END, *text("\n")]
    assert row.slots.max() == 2


def test_the_system_message_comes_first_and_bad_examples_are_named():
    row = layout.conversation(example(("user", IMAGE), ("assistant", "x")), layout.Template(WORDS, 3))
    start = [START, *text("system\nYou are a helpful assistant."), END, *text("\n")]
    assert row.tokens[: len(start)].tolist() == start
    with pytest.raises(BadExample, match="2 symbols, 1 images"):
        layout.conversation(example(("user", IMAGE + IMAGE), ("assistant", "x")), PLAIN)
    with pytest.raises(BadExample, match="no assistant turn"):
        layout.conversation(example(("user", IMAGE)), PLAIN)


def test_what_was_decoded_is_split_into_words_and_whole_pictures():
    ids = np.array([[7, 0, 0], *[[PAD, i, i + 1] for i in range(4)], [SEEN, 0, 0], [8, 0, 0], [PAD, 9, 9], [END, 0, 0]])
    words, drawn = decoding.read_ids(ids, WORDS.ids, (2, 2))
    assert words == [7, 8]
    assert len(drawn) == 1  # the other was not finished
    assert drawn[0][1, 0].tolist() == [2, 3]


def test_the_bundled_vocabulary_and_missing_files(tmp_path):
    words = vocabulary.load()
    assert words.decode(words.encode("héllo, a handwritten red seven")) == "héllo, a handwritten red seven"
    assert words.size == 380
    assert len(words.encode("a handwritten red seven")) == 4
    with pytest.raises(UserError, match="no such tokenizer file"):
        vocabulary.load(str(tmp_path / "none.json"))
    lacking = tmp_path / "lacking.json"
    lacking.write_text(vocabulary.TINY.read_text().replace("<|image_pad|>", "<|other|>"))
    with pytest.raises(UserError, match=r"lacks the token '<\|image_pad\|>'"):
        vocabulary.load(str(lacking))


def test_random_crops_stay_inside_and_near_the_whole():
    rng = np.random.default_rng(0)
    for height, width in ((40, 50), (9, 200), (200, 9)):
        for _ in range(20):
            top, left, h, w = images.draw_box(height, width, rng)
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(images.view(picture, 16), images.whole_view(picture, 16))
    assert len({images.view(picture, 16, np.random.default_rng(seed)).tobytes() for seed in range(4)}) > 1
