"""The pipeline over a real, tiny UniToken with random weights."""

import itertools

import jax
import numpy as np
import pytest
from unitoken_tiny import MODEL

from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.systems import base

SETTINGS = InferenceSettings(
    read=Decoding(text=GREEDY, max_steps=8),
    draw=Decoding(text=GREEDY, image=Sampling(temperature=0.9, top_k=200), guidance=3.0, max_steps=26),
    batch_size=4,
)
IMAGES = np.random.default_rng(0).integers(0, 255, (3, 20, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline():
    system, rng = base.build("unitoken", MODEL), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: system.init(jax.random.key(0), ("lm", "vit", "adapter", "vqgan")))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) / 2, shapes)
    return Pipeline(system, params, SETTINGS)


@pytest.mark.slow
def test_prompts_draw_together_what_they_draw_alone(pipeline):
    prompts, seeds = ["a red seven", "x", "something much longer than the others"], [3, 4, 3]
    drawn = pipeline.generate(prompts, seeds=seeds)
    assert drawn.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(drawn[2:], pipeline.generate(prompts[2:], seeds=[3]))
    assert (drawn[0] != drawn[1]).any()


def test_a_drawing_forms_code_by_code(pipeline):
    forming = list(pipeline.drawing("a red seven", seed=3, chunk=5))
    assert len(forming) > 3 and all(picture.shape == (16, 16, 3) for picture in forming)
    np.testing.assert_array_equal(forming[-1], pipeline.generate(["a red seven"], seeds=[3])[0])
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(forming)]
    assert sum(changed) > 2
    edited = list(pipeline.drawing("make it red", image=IMAGES[0], seed=3, chunk=50))
    np.testing.assert_array_equal(edited[-1], pipeline.edit(IMAGES[:1], ["make it red"], seeds=[3])[0])


def test_a_drawing_has_the_systems_grid_and_codes(pipeline):
    example = Example("e", (Turn("user", "a blue one"),), task=Task.GENERATION)
    answer = pipeline.answer([example], SETTINGS.draw)[0]
    assert answer.images[0].shape == (4, 4) and 0 <= answer.images[0].min() <= answer.images[0].max() < 256


def test_what_was_said_is_what_the_next_turn_reads(pipeline):
    """Ids that were decoded, read as a turn and laid out again, images among the words."""
    system, ids = pipeline.system, pipeline.system.vocabulary.ids
    words, line = system.vocabulary.encode, [ids.code_offset] * 4 + [ids.newline]
    image = [ids.boi, ids.grid + 2, ids.grid + 2, *line * 4, ids.eoi]
    for said in ([*ids.image_prefix, *image], [*words("see "), *image, *words(" and "), *image, *words(" both")]):
        text, images = system.read(np.array([*said, ids.end_of_turn]))
        turns = (Turn("user", "draw"), Turn("assistant", text), Turn("user", "again"))
        row = system.prompt(Example("e", turns, tuple(IMAGES[: len(images)]), Task.UNDERSTANDING))
        kept = row.tokens[(row.modality != Modality.FEATURE) & (row.tokens != ids.sep)]
        turn = ids.end_of_turn
        assert kept.tolist() == [ids.bos, *words("draw"), turn, *said, turn, *words("again"), turn]


def test_answers_see_codes_and_features_of_different_images(pipeline):
    assert len(pipeline.ask(IMAGES, ["what colour is it?"] * 3)) == 3
    same, mixed = (pipeline._prompt(*map(_about, pair)) for pair in ((0, 0), (0, 1)))
    np.testing.assert_array_equal(same.views["vqgan"], mixed.views["vqgan"])
    assert (same.views["siglip"][0] != mixed.views["siglip"][0]).any()


def _about(index):
    return Example(str(index), (Turn("user", "what?"),), (IMAGES[index],), Task.UNDERSTANDING)


def test_reconstruction_keeps_the_size_and_follows_the_codes(pipeline):
    tokens = pipeline.encode(IMAGES, codes_alone=True)
    assert tokens.codes.shape == (3, 1, 16) and tokens.features is None and tokens.grid == (4, 4)
    np.testing.assert_array_equal(pipeline.reconstruct(IMAGES), pipeline.decode(tokens.codes.reshape(3, 4, 4)))
