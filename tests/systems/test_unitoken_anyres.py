"""AnyRes: rows with tiles, the pictures that they point at, and the embeddings that the language model reads."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unitoken_tiny import MODEL

from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.errors import UserError
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.systems import base
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.systems.unitoken import anyres

RULE = anyres.AnyRes(((16, 32), (32, 16), (32, 32)), side=16, grid=2)
RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def system():
    return base.build("unitoken", {**MODEL, "canvases": [[1, 2], [2, 1], [2, 2]]})


def question(*images: np.ndarray, words: str = "what?") -> Example:
    turns = (Turn("user", IMAGE * len(images) + words), Turn("assistant", "a seven"))
    return Example("e", turns, images, Task.UNDERSTANDING)


def test_a_wide_picture_is_read_line_by_line_over_its_tiles():
    order = RULE.order(40, 20)  # on a canvas of two tiles side by side, whole
    tiles = order[4:]
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert tiles.tolist() == [4, 5, 8, 9, anyres.ROW_END, 6, 7, 10, 11, anyres.ROW_END]
    assert RULE.count(40, 20) == 3


def test_an_odd_remainder_keeps_one_row_too_many():
    assert anyres.kept_span(384, 384, (54, 27)) == (slice(13, 41), slice(0, 27))


def test_no_picture_needs_more_than_the_most():
    sizes = [(w, h) for w in (1, 7, 16, 33, 200) for h in (1, 5, 16, 40, 300)]
    lengths = [len(RULE.order(*size)) for size in sizes]
    assert max(lengths) == RULE.most_features == 4 + 4 * 5
    assert max(RULE.count(*size) for size in sizes) == RULE.most_pictures == 5


def test_rows_point_at_overview_and_tiles_of_each_image(system):
    wide, tall = picture(20, 40), picture(40, 18)
    stage = base.build_stage(system, "lm", {"row_length": 256, "images": 2})
    row = stage.layout(question(wide, tall), np.random.default_rng(0))
    shape, ids = system.config.shape, system.vocabulary.ids
    assert [view.shape for view in row.views["siglip"]] == [(16, 16, 3)] * 6
    second = np.where(shape.order(tall) == anyres.ROW_END, -1, shape.order(tall) + shape.outputs(wide))
    expected = [slot for slot in (*shape.order(wide), *second) if slot >= 0]
    assert row.slots[row.modality == Modality.FEATURE].tolist() == expected
    inside = np.cumsum(row.tokens == ids.sep) - np.cumsum(row.tokens == ids.eoi) == 1
    assert (row.tokens[inside] == ids.newline).sum() == (shape.order(wide) < 0).sum() + (second < 0).sum()
    assert stage.spec.views["siglip"].images == 2 * 5
    packing.check(row, stage.spec, codes=False)


@pytest.mark.slow
def test_the_model_reads_features_where_slots_say_and_newlines_at_row_ends(system):
    params = system.init(jax.random.key(0), ("lm", "vit", "adapter", "vqgan"))
    image = picture(20, 40)
    row = system.prompt(question(image))
    batch = float_pixels(jax.tree.map(jnp.asarray, prompt_batch([row])))
    embeds = np.asarray(system.embed(params, batch))[0]
    seen = np.stack(system.feature_views(image)).astype(np.float32) / 127.5 - 1
    features = np.asarray(system.apply(params, "adapter", system.apply(params, "vit", jnp.asarray(seen))[0]))
    features = features.reshape(-1, features.shape[-1])
    start = int(np.argmax(row.tokens == system.vocabulary.ids.sep)) + 1
    order = system.config.shape.order(image)
    newline = np.asarray(params["lm"]["embed"]["embedding"])[system.vocabulary.ids.newline]
    expected = np.stack([newline if slot == anyres.ROW_END else features[slot] for slot in order])
    np.testing.assert_allclose(embeds[start : start + len(order)], expected, atol=1e-6)


def test_prompts_that_cannot_be_are_told_in_one_line(system):
    with pytest.raises(UserError, match=r"e: the prompt has \d+ ids, the model's context is 4096: shorten it"):
        system.prompt(question(picture(8, 8), words="word " * 9000))
    turns = (Turn("user", IMAGE + IMAGE + "which?"),)
    with pytest.raises(UserError, match="2 symbols, 1 images"):
        system.prompt(Example("e", turns, (picture(8, 8),), Task.UNDERSTANDING))
    stage = base.build_stage(system, "lm", {"row_length": 256})
    codes = (np.zeros((2, 2), np.int32),)
    lacking = Example("e", (Turn("user", IMAGE), Turn("assistant", "x")), (), Task.UNDERSTANDING, codes)
    with pytest.raises(BadExample, match="features need the picture"):
        stage.layout(lacking, np.random.default_rng(0))


def test_the_released_crop_of_a_prompt_is_that_of_its_seed():
    system = base.build("unitoken", {**MODEL, "prompt_crop": "released"})
    wide = picture(16, 60)
    (crop,) = system.views(wide)["vqgan"]
    left = random.Random(100).randint(0, 44)
    np.testing.assert_array_equal(crop, wide[:, left : left + 16])
    with pytest.raises(UserError, match="prompt_crop"):
        base.build("unitoken", {**MODEL, "prompt_crop": "left"})
