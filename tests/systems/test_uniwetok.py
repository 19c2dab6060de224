"""UniWeTok's rows, its two routes to codes, and its decode, on a model of a few thousand parameters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.data.sources import open_source
from unitok_jax.data.tasks import to_example
from unitok_jax.errors import UserError
from unitok_jax.evaluation.suites import suite
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.inference.tokenize import tokenize_source
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import base
from unitok_jax.systems.base import System
from unitok_jax.systems.pixels import float_pixels, to_float

MODEL = {
    "image_size": 16,
    "sizes": ((16, 32),),
    "parallel_num": 4,
    "vae": dict(channels=8, multipliers=(1, 1, 2), res_blocks=1, z_channels=16, bit_groups=2, attn_blocks=1, heads=2),
    "lm": dict(vocab_size=2048, width=16, ffn=32, layers=2, heads=2, kv_heads=1, head_dim=8, qk_norm="rmsnorm"),
    "flow": dict(kind="transformer", width=16, depth=1, modulations=1, head_dim=8, squash=True),
}
GRID, WIDE = (4, 4), (4, 8)
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


def example(task=Task.GENERATION, codes=None, grids=None):
    asked, answer = (f"{IMAGE}make it blue", IMAGE) if task == Task.GENERATION else (f"{IMAGE}what?", f"{IMAGE}blue")
    turns = Turn("user", asked), Turn("assistant", answer.replace(IMAGE, "") if task != Task.GENERATION else answer)
    images = tuple(PICTURES) if task == Task.GENERATION else (PICTURES[0],)
    return Example("one", turns, images, task, codes, grids=grids)


@pytest.fixture(scope="module")
def system():
    return base.build("uniwetok", MODEL)


@pytest.fixture(scope="module")
def params(system):
    return jax.jit(lambda: system.init(jax.random.key(0), ("lm", "projector", "flow", "vae")))()


def stage(system, **options):
    return base.build_stage(system, "lm", {"row_length": 128, "images": 2, "condition_dropout": 0.0, **options})


def test_it_is_a_system(system):
    assert isinstance(system, System)


def test_a_row_of_an_edit(system):
    row = stage(system).layout(example(), np.random.default_rng(0))
    ids, parallel = system.vocabulary.ids, 4
    starts = np.flatnonzero(row.tokens == ids.vision_start)
    ends = np.flatnonzero(row.tokens == ids.vision_end)
    read, drawn = row.tokens[starts[0] : ends[0] + 1], row.tokens[starts[1] : ends[1] + 1]
    assert list(read[:3]) == [ids.vision_start, ids.side(4), ids.side(4)] and len(read) == 16 + 4
    assert list(drawn[1 : 2 + parallel]) == [ids.side(4), ids.side(4), ids.query, ids.query + 1, ids.query + 2]
    code = np.flatnonzero(row.modality == Modality.CODE)
    np.testing.assert_array_equal(row.slots[code], [*range(16), *range(32, 48)])  # room for 4 x 8 tokens a picture
    drawing = np.flatnonzero(row.targets == -1)
    np.testing.assert_array_equal(drawing, starts[1] + 2 + np.arange(16))
    assert (row.loss_weights[drawing] == 1).all() and row.tokens[drawing[0] + parallel] == ids.image_pad
    blocks = row.blocks[starts[1] + 2 : ends[1]]
    np.testing.assert_array_equal(blocks, np.arange(20) // parallel)
    assert (np.delete(row.blocks, np.arange(starts[1] + 2, ends[1])) == -1).all()
    words = np.flatnonzero((row.loss_weights > 0) & (row.targets >= 0))
    assert row.targets[words].tolist() == [ids.im_end] and words[0] == ends[1]


def test_the_unconditional_row_keeps_the_source(system):
    row = stage(system, condition_dropout=1.0).layout(example(), np.random.default_rng(0))
    ids = system.vocabulary.ids
    assert row.tokens[0] == ids.vision_start and (row.modality == Modality.CODE).sum() == 32
    assert (row.targets == -1).sum() == 16


def turned(*texts):
    """A conversation whose pictures are as many as its symbols, the user first."""
    turns = tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    count = sum(text.count(IMAGE) for text in texts)
    return Example("many", turns, tuple(PICTURES[i % 2] for i in range(count)), Task.GENERATION)


@pytest.mark.parametrize(
    "texts", [("a cat", IMAGE, "a dog", IMAGE), (f"{IMAGE}turn it", IMAGE, f"{IMAGE}like this", IMAGE)]
)
def test_the_unconditional_row_learns_the_last_picture_after_those_before_it(system, texts):
    row = stage(system, condition_dropout=1.0).layout(turned(*texts), np.random.default_rng(0))
    code = np.flatnonzero(row.modality == Modality.CODE)
    slot = system.config.tokens
    pictures = len(code) // 16
    np.testing.assert_array_equal(row.slots[code], [i * slot + n for i in range(pictures) for n in range(16)])
    assert pictures == sum(text.count(IMAGE) for text in texts)
    drawn = np.flatnonzero(row.targets == -1)
    assert len(drawn) == 16 and drawn[0] > code[-17], "the last one alone"


@pytest.mark.slow
def test_a_prompt_is_read_as_its_row_is(system, params):
    """A picture that was drawn before stands in blocks, which the cache's mask must know too."""
    asked = turned("a cat", IMAGE, "a dog")
    row = system.layout.prompt(asked, system.sizes_of(asked, native=False), draw=True)
    batch = jax.tree.map(jnp.asarray, packing.pack([[row]], stage(system).spec, False))
    assert (np.asarray(batch["blocks"]) >= 0).sum() == 20
    embeds = jax.random.normal(jax.random.key(0), (*batch["tokens"].shape, system.config.lm.width))
    valid = (batch["segments"] > 0).sum(1)
    whole = system.read_rows(params, embeds, batch, None, packed=False)
    cache = system.new_cache(1, embeds.shape[1])
    read, _ = system.advance(params, embeds, cache, valid, batch["blocks"])
    causal, _ = system.advance(params, embeds, cache, valid)
    end = int(valid[0])
    np.testing.assert_allclose(read[0, :end], whole[0, :end], atol=1e-4)
    assert np.abs(causal[0, :end] - whole[0, :end]).max() > 1e-2, "the test can fail"


@pytest.mark.slow
def test_codes_and_pictures_train_alike(system, params):
    made = stage(system)
    pictures = made.layout(example(), np.random.default_rng(0))
    tokens = system.encode_image(params, {"image": to_float(np.stack(pictures.views["image"])[None])}).codes
    coded = made.layout(example(codes=tuple(np.asarray(tokens[0]))), np.random.default_rng(0))
    losses = []
    for row, codes in ((pictures, False), (coded, True)):
        batch = packing.pack([[row]], made.spec, codes)
        batch = jax.tree.map(jnp.asarray, batch)
        if "image" in batch.get("pixels", {}):
            batch["pixels"] = {"image": to_float(batch["pixels"]["image"])}
        batch["totals"] = made.counts(batch)
        assert batch["totals"]["tokens"] == 16
        losses.append(jax.jit(made.phases[0].loss)(params, {}, batch, jax.random.key(1), {})[0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_sizes_come_from_the_grid_that_was_recorded(system):
    """8 x 2 tokens are as many as 4 x 4: the count alone does not tell."""
    tall = base.build("uniwetok", {**MODEL, "sizes": ((32, 8), (16, 32))})
    codes = tuple(np.zeros((16, 2), np.uint8) for _ in range(2))
    assert tall.sizes_of(example(codes=codes, grids=((4, 4), (8, 2))), native=False) == [(16, 16), (32, 8)]
    assert system.sizes_of(example(codes=codes), native=False) == [(16, 16)] * 2
    for model, grids, message in (
        (tall, None, "16 x 16 or 32 x 8 pixels: the record needs grids"),
        (tall, ((4, 4), (2, 8)), "16 tokens on 2 x 8, which no listed size has"),
    ):
        with pytest.raises(BadExample, match=message):
            model.sizes_of(example(codes=codes, grids=grids), native=False)


def test_a_tokenised_set_of_several_shapes_becomes_rows(system, params, tmp_path):
    """`unitok tokenize`, the records' types, and a row with two sizes of pictures."""
    pipeline = Pipeline(system, params, InferenceSettings(batch_size=2))
    wide = np.random.default_rng(1).integers(0, 256, (20, 44, 3), np.uint8)
    source = [{"image": PICTURES[0], "target": wide, "instruction": "widen it"}, {"image": wide, "caption": "wide"}]
    tokenize_source(pipeline, source, str(tmp_path), {}, shards=1)
    shards = open_source("arrayrecord", {"path": str(tmp_path)}, "test")
    first, second = shards[0], shards[1]
    assert first["grids"] == [[4, 4], [4, 8]] and second["grids"] == [[4, 8]]
    assert [codes.dtype for codes in first["codes"]] == [np.uint8] * 2  # groups of 8 bits: the bits packed as bytes
    np.testing.assert_array_equal(first["codes"][1], second["codes"][0])
    row = stage(system).layout(to_example("edit", first, (), np.random.default_rng(0)), np.random.default_rng(0))
    assert row.sizes.tolist() == [[16, 16], [16, 32]] and row.codes.shape == (2, 32, 2)
    assert (row.targets == -1).sum() == 32
    np.testing.assert_array_equal(row.codes[1], second["codes"][0])


def test_interleaved_pictures_and_words_are_laid_out_and_learnt(system, params):
    """An answer of words, a picture, words, a picture: both pictures are drawn, and each word has a loss."""
    said = Turn("assistant", f"{IMAGE}red{IMAGE}blue")
    both = Example("mixed", (Turn("user", "what?"), said), tuple(PICTURES), Task.GENERATION)
    made = stage(system, perturb=0.0)
    row = made.layout(both, np.random.default_rng(0))
    drawing, words = row.targets == -1, (row.loss_weights > 0) & (row.targets >= 0)
    spoken = [*system.vocabulary.encode("red"), *system.vocabulary.encode("blue"), system.vocabulary.ids.im_end]
    assert drawing.sum() == 32 and row.targets[words].tolist() == spoken
    assert np.unique(row.blocks[row.blocks >= 0]).tolist() == list(range(10))  # each picture's queries and 4 blocks
    batch = float_pixels(jax.tree.map(jnp.asarray, packing.pack([[row]], made.spec, codes=False)))
    batch["totals"] = made.counts(batch)
    assert batch["totals"] == {"words": len(spoken), "tokens": 32}
    loss = jax.jit(made.phases[0].loss)
    _, aux, *_ = loss(params, {}, batch, jax.random.key(1), {})
    assert aux["loss/picture"].count == 32 and aux["loss/generation"].count == len(spoken)
    assert np.isfinite([aux["loss/picture"].compute(), aux["loss/generation"].compute()]).all()


@pytest.mark.slow
def test_pictures_of_several_shapes_are_seen_at_their_own(system, params, tmp_path):
    """Edits and answers of a batch with two sizes; alone, each gives what it gives there."""
    draw = Decoding(grid=GRID, guidance=2.0, noise_steps=2, max_steps=6)
    pipeline = Pipeline(system, params, InferenceSettings(read=Decoding(max_steps=3), draw=draw, batch_size=2))
    wide = np.random.default_rng(1).integers(0, 256, (20, 44, 3), np.uint8)
    images, asked = [PICTURES[0], wide], ["make it blue", "make it red"]
    both = pipeline.edit(images, asked, seeds=5)
    alone = pipeline.edit(images[1:], asked[1:], seeds=6)
    np.testing.assert_allclose(both[1].astype(int), alone[0].astype(int), atol=1)
    assert [picture.shape for picture in pipeline.reconstruct(images)] == [(16, 16, 3), (16, 32, 3)]
    with pytest.raises(UserError, match="several sizes"):
        pipeline.encode(images)
    assert pipeline.alike([*images, PICTURES[1]]) == [[0, 2], [1]]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    config = {"system": "uniwetok", "seed": 0, "options": {"source": {"kind": "folder", "path": str(tmp_path)}}}
    assert suite("reconstruction")(pipeline, config, tmp_path / "out")["pictures"] == 2
    made_by = json.loads((tmp_path / "out" / "result.json").read_text())["made_by"]
    assert made_by["resolution"] == {"16x16": 1, "16x32": 1}
    fewer = pipeline.generate(["a red seven"], noise_steps=1)
    assert not np.array_equal(fewer, pipeline.generate(["a red seven"]))


@pytest.mark.slow
def test_pictures_are_drawn_edited_and_described(system, params):
    draw = Decoding(grid=GRID, guidance=2.0, noise_steps=2, max_steps=6)
    read = Decoding(max_steps=3)
    pipeline = Pipeline(system, params, InferenceSettings(read=read, draw=draw, prompts={"generate": "{caption}"}))
    both = pipeline.generate(["a red seven", "a blue one"], seeds=[3, 4])
    assert both.shape == (2, 16, 16, 3) and both.dtype == np.uint8
    np.testing.assert_array_equal(pipeline.generate(["a blue one"], seeds=[4])[0], both[1])
    assert len(pipeline.caption(PICTURES[:1])) == 1
    assert pipeline.reconstruct(PICTURES[:1]).shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="grid 5x5"):
        pipeline.generate(["a red seven"], grid=(5, 5))


@pytest.mark.slow
def test_other_sizes_are_drawn(system, params):
    draw = Decoding(grid=WIDE, noise_steps=2, max_steps=10)
    pipeline = Pipeline(system, params, InferenceSettings(draw=draw))
    assert pipeline.generate(["a red seven"]).shape == (1, 16, 32, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 20}, "nearest: 24 x 24|nearest: 16 x 16"),
        ({"parallel_num": 3}, "3 is not a square"),
        ({"parallel_num": 16, "sizes": ((8, 32),)}, "16 at once"),
        ({"lm": {**MODEL["lm"], "vocab_size": 300}}, "less than the vocabulary's"),
    ],
)
def test_what_does_not_fit_is_told(change, message):
    with pytest.raises(UserError, match=message):
        base.build("uniwetok", {**MODEL, **change})


def test_a_teacher_of_the_wrong_width_is_told(system):
    distill = {"teacher": dict(width=32, heads=2, ffn=32, layers=1), "pool": dict(width=16, heads=2)}
    with pytest.raises(UserError, match="16 wide and the teacher 32"):
        base.build_stage(system, "tokenizer", {"distill": distill})
