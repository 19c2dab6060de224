"""UniToken's rows against the id sequences that the specification writes out."""

import dataclasses

import numpy as np
import pytest

from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.errors import UserError
from unitok_jax.systems.unitoken import layout, vocabulary
from unitok_jax.systems.unitoken.images import siglip_view, vqgan_view

SHAPE = layout.ImageShape(2, 4, 3)
VOCABULARY = vocabulary.Vocabulary(
    vocabulary.TokenIds(), 65536, lambda text: [20000 + ord(c) % 1000 for c in text], lambda ids: ""
)
PICTURE = np.zeros((8, 8, 3), np.uint8)


def text(words: str) -> list[int]:
    return VOCABULARY.encode(words)


def example(*turns: tuple[str, str], images: int = 1, task: Task = Task.UNDERSTANDING) -> Example:
    return Example("e", tuple(Turn(*turn) for turn in turns), (PICTURE,) * images, task)


def image_ids(features: bool = True) -> list[int]:
    tail = [8198, 0, 0, 0, 8196] if features else [8196]
    return [8197, 8805, 8806, 4, 4, 4, 4, 8803, 4, 4, 4, 4, 8803, *tail]


def test_question_row_learns_the_answer_and_the_separator():
    row = layout.conversation(example(("user", IMAGE + "hm"), ("assistant", "cat")), VOCABULARY, SHAPE, True)
    question = [0, *image_ids(), *text("hm"), 8710]
    assert row.tokens.tolist() == [*question, *text("cat"), 8710]
    separator = question.index(8198)
    learnt = [separator - 1, *range(len(question) - 1, len(row.tokens) - 1)]
    assert np.flatnonzero(row.loss_weights).tolist() == learnt
    assert row.targets[learnt].tolist() == [8198, *text("cat"), 8710]


def test_slots_count_over_the_images_of_a_row():
    row = layout.conversation(example(("user", IMAGE + IMAGE), ("assistant", "x"), images=2), VOCABULARY, SHAPE, True)
    assert row.slots[row.modality == Modality.CODE].tolist() == list(range(16))
    assert row.slots[row.modality == Modality.FEATURE].tolist() == list(range(6))


@pytest.mark.parametrize("features", [True, False])
def test_drawn_image_is_learnt_with_or_without_its_features(features):
    drawn = example(("user", "dog"), ("assistant", IMAGE), task=Task.GENERATION)
    row = layout.conversation(drawn, VOCABULARY, SHAPE, features)
    answer = [16853, *image_ids(features), 8710]
    assert row.tokens.tolist() == [0, *text("dog"), 8710, *answer]
    learnt = row.targets[row.loss_weights > 0].tolist()
    assert learnt == [i for i, m in zip(answer, [0, *_modality(features), 0], strict=True) if m != Modality.FEATURE]
    assert layout.featured(drawn, features) == ([0] if features else [])


def _modality(features: bool) -> list[int]:
    line = [Modality.CODE] * 4 + [Modality.TEXT]
    tail = [Modality.TEXT, *[Modality.FEATURE] * 3, Modality.TEXT] if features else [Modality.TEXT]
    return [Modality.TEXT] * 3 + line * 2 + tail


def test_prompt_of_a_drawing_is_the_training_row_up_to_its_first_code():
    drawn = example(("user", "dog"), ("assistant", IMAGE), task=Task.GENERATION)
    asked = dataclasses.replace(drawn, turns=drawn.turns[:1], images=())
    prompt = layout.prompt(asked, VOCABULARY, SHAPE, draw=True, context=4096).tokens
    row = layout.conversation(drawn, VOCABULARY, SHAPE, True).tokens
    assert prompt[-1] == 8197
    assert row[: len(prompt)].tolist() == prompt.tolist()


def test_the_measured_length_is_that_of_the_ids():
    """Without SEP and features, whatever the pictures are."""
    turns = [("user", IMAGE + "hm"), ("assistant", "cat"), ("user", "draw"), ("assistant", IMAGE)]
    whole = example(*turns, images=2)
    row = layout.conversation(whole, VOCABULARY, SHAPE, True)
    unread = dataclasses.replace(whole, images=(PICTURE[:1, :1],) * 2)
    ids = (row.modality != Modality.FEATURE) & (row.tokens != VOCABULARY.ids.sep)
    assert layout.id_count(unread, VOCABULARY, SHAPE) == ids.sum() == len(row.tokens) - 2 * 4


def test_images_without_a_symbol_stand_before_the_first_turn():
    row = layout.conversation(example(("user", "hm"), ("assistant", "x")), VOCABULARY, SHAPE, True)
    assert row.tokens[: len(image_ids()) + 2].tolist() == [0, *image_ids(), *text(" ")]


def test_bad_examples_are_named():
    with pytest.raises(BadExample, match="2 symbols, 1 images"):
        layout.conversation(example(("user", IMAGE + IMAGE), ("assistant", "x")), VOCABULARY, SHAPE, True)
    with pytest.raises(BadExample, match="no assistant turn"):
        layout.conversation(example(("user", IMAGE)), VOCABULARY, SHAPE, True)


def test_released_code_names():
    assert vocabulary.code_name(105) == "IMGIMGBAFZ"


def test_bundled_vocabulary_round_trips_any_text():
    words = vocabulary.load()
    assert words.ids.codes == 256
    assert words.size == words.ids.image == 704
    for sentence in ("a handwritten red seven", "héllo, wörld?"):
        assert words.decode(words.encode(sentence)) == sentence
    assert len(words.encode("a handwritten red seven")) == 4


def test_vocabulary_files_are_checked(tmp_path):
    with pytest.raises(UserError, match="no such tokenizer file"):
        vocabulary.load(str(tmp_path / "none.json"))
    small = vocabulary.build(["a b"], codes=4, grid_units=2, merges=3)
    shuffled = tmp_path / "shuffled.json"
    shuffled.write_text(small.to_str().replace("IMGIMGCZ", "IMGIMG_").replace("IMGIMGBZ", "IMGIMGCZ"))
    with pytest.raises(UserError, match=r"image code 1 \(IMGIMGBZ\) must have id 5"):
        vocabulary.load(str(shuffled))
    lacking = tmp_path / "lacking.json"
    lacking.write_text(small.to_str().replace("<eoss>", "<other>"))
    with pytest.raises(UserError, match="lacks the token '<eoss>'"):
        vocabulary.load(str(lacking))


def test_views_scale_and_crop():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (97, 150, 3), dtype=np.uint8)
    assert siglip_view(picture, 30).shape == (30, 30, 3)
    centre = vqgan_view(picture, 64, 64)
    assert centre.shape == (64, 64, 3)
    assert np.array_equal(centre, vqgan_view(picture, 64, 64))
    places = {vqgan_view(picture, 64, 64, np.random.default_rng(seed)).tobytes() for seed in range(8)}
    assert len(places) > 1


def test_pictures_twice_as_large_on_both_sides_are_halved_before_they_are_scaled():
    small = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    for times in (2, 4):
        large = small.repeat(times, 0).repeat(times, 1)  # halving gives `small` back, scaling alone would not
        np.testing.assert_array_equal(vqgan_view(large, 64, 64), vqgan_view(small, 64, 64))
    low = small[:60]
    assert (vqgan_view(low.repeat(2, 0).repeat(2, 1), 64, 64) != vqgan_view(low, 64, 64)).any()
