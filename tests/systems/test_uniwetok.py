"""UniWeTok's rows, its two routes to codes, and its decode, on a model of a few thousand parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems import base
from unitok_jax.systems.base import System
from unitok_jax.systems.pixels import to_float

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


def example(task=Task.GENERATION, codes=None):
    asked, answer = (f"{IMAGE}make it blue", IMAGE) if task == Task.GENERATION else (f"{IMAGE}what?", f"{IMAGE}blue")
    turns = Turn("user", asked), Turn("assistant", answer.replace(IMAGE, "") if task != Task.GENERATION else answer)
    images = tuple(PICTURES) if task == Task.GENERATION else (PICTURES[0],)
    return Example("one", turns, images, task, codes)


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
