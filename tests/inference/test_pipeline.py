import dataclasses

import jax
import numpy as np
import pytest
from tiny_system import TinySystem

from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.prompts import bucket, prompt_batch
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import GREEDY, Decoding, Sampling
from unitok_jax.systems.pixels import to_uint8

SETTINGS = InferenceSettings(
    read=Decoding(image=Sampling(temperature=2.0), max_steps=6),
    draw=Decoding(image=Sampling(temperature=2.0), guidance=2.0, max_steps=8),
    prompts={"caption": "34", "question": "5{question}", "generate": "6{caption}"},
    batch_size=3,
)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (7, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline():
    system = TinySystem()
    return Pipeline(system, system.params(3), SETTINGS)


def test_a_long_list_gives_what_each_item_gives_alone(pipeline):
    asked = zip(IMAGES, "2345678", strict=True)
    examples = [Example(q, (Turn("user", q),), (i,), Task.UNDERSTANDING) for i, q in asked]
    seeds = [5, 5, 5, 5, 5, 6, 7]
    many = pipeline.answer(examples, seeds=seeds)
    assert [a.text for a in many] == [
        pipeline.answer([e], seeds=s)[0].text for e, s in zip(examples, seeds, strict=True)
    ]
    assert len({a.text for a in many}) > 1


def test_progress_is_told_after_every_batch(pipeline):
    told = []
    told_pipeline = Pipeline(pipeline.system, pipeline.params, SETTINGS, lambda *done: told.append(done))
    assert len(told_pipeline.caption(IMAGES)) == 7
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert told_pipeline.caption([]) == []


def test_batches_share_programs():
    system = TinySystem()
    pipeline = Pipeline(system, system.params(3), SETTINGS)
    pipeline.caption(IMAGES)
    programs = len(system.traces)
    pipeline.caption(IMAGES[:5])
    pipeline.ask(IMAGES[:6], ["2"] * 6)
    assert len(system.traces) == programs == 1


def test_generation_is_by_seed_and_guided_by_its_prompt(pipeline):
    drawn = pipeline.generate(["3", "4", "57", "3"], seeds=[1, 2, 3, 1])
    assert drawn.shape == (4, 4, 4, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[0], drawn[3])
    np.testing.assert_array_equal(drawn[2:3], pipeline.generate(["57"], seeds=3))
    np.testing.assert_array_equal(drawn[1:3], pipeline.generate(["4", "57"], seeds=2))
    assert (drawn[:3] != drawn[1:4]).any()


def test_guidance_and_temperature_of_a_call_replace_the_settings(pipeline):
    greedy = dataclasses.replace(SETTINGS, draw=Decoding(image=GREEDY, guidance=4.0, max_steps=8))
    expected = Pipeline(pipeline.system, pipeline.params, greedy).generate(["345"])
    np.testing.assert_array_equal(pipeline.generate(["345"], guidance=4.0, temperature=0.0), expected)


def test_an_unfinished_drawing_is_one_clear_line(pipeline):
    short = dataclasses.replace(SETTINGS, draw=dataclasses.replace(SETTINGS.draw, max_steps=2))
    with pytest.raises(UserError, match="prompt 0: no whole image within max_steps=2"):
        Pipeline(pipeline.system, pipeline.params, short).generate(["3"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.ask(IMAGES, ["2"]), "7 images but 1 questions"),
        (lambda p: p.generate(["2", "3"], seeds=[1]), "1 seeds for 2 samples"),
        (lambda p: dataclasses.replace(SETTINGS, prompts={"captoin": "3"}).prompt("caption"), "captoin.*caption"),
    ],
)
def test_wrong_calls_are_told(pipeline, call, message):
    with pytest.raises(UserError, match=message):
        call(pipeline)


def test_reconstruction_is_decoding_what_was_encoded(pipeline):
    tokens = pipeline.encode(IMAGES)
    assert tokens.codes.shape == (7, 1, 4) and tokens.features.shape == (7, 1, 1, 1) and tokens.grid == (2, 2)
    alone = pipeline.encode(IMAGES, codes_alone=True)
    np.testing.assert_array_equal(alone.codes, tokens.codes)
    assert alone.features is None
    got = pipeline.reconstruct(IMAGES)
    np.testing.assert_array_equal(got, pipeline.decode(tokens.codes.reshape(7, 2, 2)))
    direct = pipeline.system.decode_image({}, tokens.codes.reshape(7, 2, 2))
    np.testing.assert_array_equal(got, to_uint8(direct))


def test_feature_images_change_the_features_alone(pipeline):
    images = {"a": IMAGES[:1], "b": IMAGES[1:2]}
    example = {name: Example(name, (Turn("user", "34"),), (images[name][0],), Task.UNDERSTANDING) for name in images}
    row = pipeline._prompt(example["a"], example["b"])
    np.testing.assert_array_equal(row.views["crop"][0], IMAGES[0][:4, :4])
    np.testing.assert_array_equal(row.views["look"][0], IMAGES[1][::2, ::2])
    assert pipeline.caption(IMAGES, feature_images=IMAGES) == pipeline.caption(IMAGES)


def test_streaming_ends_with_the_answer(pipeline):
    example = Example("e", (Turn("user", "345"),), task=Task.TEXT)
    decoding = Decoding(image=Sampling(), max_steps=7)
    pieces = list(pipeline.stream(example, decoding, seed=4, chunk=3))
    assert pipeline.system.read(pieces[-1])[0] == pipeline.answer([example], decoding, seeds=4)[0].text


def test_sharded_parameters_give_the_same(pipeline):
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(pipeline.params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
    assert Pipeline(pipeline.system, spread, SETTINGS).caption(IMAGES[:2]) == pipeline.caption(IMAGES[:2])


def test_buckets_are_few_and_at_most_half_too_large():
    sizes = [bucket(n, 16) for n in range(1, 4097)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert max(size / n for n, size in enumerate(sizes, 1) if n > 16) < 1.5
    assert len(set(sizes)) == 17 and sorted(set(sizes))[:5] == [16, 24, 32, 48, 64]
    assert [bucket(n) for n in range(5)] == [1, 1, 2, 3, 4]


def test_a_batch_of_prompts_is_padded_and_keeps_codes_and_pictures():
    system = TinySystem()
    examples = [Example("a", (Turn("user", "3" * 20),), (IMAGES[0], IMAGES[1])), Example("b", (Turn("user", "4"),))]
    batch = prompt_batch([system.prompt(e) for e in examples])
    assert batch["tokens"].shape == (2, 24) and batch["pixels"]["crop"].shape == (2, 2, 4, 4, 3)
    assert batch["segments"].sum(1).tolist() == [24, 1] and batch["filled"]["look"].tolist() == [[1, 1], [0, 0]]
    coded = dataclasses.replace(system.prompt(examples[0]), views={}, codes=np.arange(8).reshape(2, 4))
    batch = prompt_batch([coded, system.prompt(examples[1])])
    np.testing.assert_array_equal(batch["codes"][0], coded.codes)


def test_pictures_of_different_sizes_are_told():
    system = TinySystem()
    rows = [system.prompt(Example("a", (Turn("user", "3"),), (i,))) for i in (IMAGES[0], np.zeros((6, 8, 3), np.uint8))]
    with pytest.raises(UserError, match="'look' in one batch must have one size"):
        prompt_batch(rows)
