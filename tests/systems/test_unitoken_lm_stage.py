"""UniToken's stage `lm`: what its options blank, drop and learn, and codes that come by either route."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unitoken_tiny import MODEL

from unitok_jax.data import packing
from unitok_jax.data.example import IMAGE, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.data.sources import open_source
from unitok_jax.data.tasks import to_example
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.inference.tokenize import tokenize_source
from unitok_jax.systems import base
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.systems.unitoken import stage_lm

SYSTEM = base.build("unitoken", MODEL)
IDS = SYSTEM.vocabulary.ids
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)  # as large as the crop, which is then all of it


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: SYSTEM.init(jax.random.key(0), ("lm", "vit", "adapter", "vqgan")))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), shapes)


def stage(**options):
    return base.build_stage(SYSTEM, "lm", {"row_length": 96, **options})


def seen(picture=0):
    turns = (Turn("user", f"{IMAGE}what is it?"), Turn("assistant", "a red seven"))
    return Example("seen", turns, (PICTURES[picture],), Task.UNDERSTANDING)


def drawn(picture=1):
    return Example(
        "drawn", (Turn("user", "draw a two"), Turn("assistant", IMAGE)), (PICTURES[picture],), Task.GENERATION
    )


def batch_of(made, *examples, codes=None):
    """One example a line; `codes` in the place of the VQGAN's pictures."""
    rows = [made.layout(example, np.random.default_rng(0)) for example in examples]
    batch = jax.tree.map(jnp.asarray, float_pixels(packing.pack([[row] for row in rows], made.spec, codes=False)))
    if codes is not None:
        batch = {**batch, "codes": jnp.asarray(codes)}
    return batch


def test_a_row_without_its_condition_is_the_rest_from_the_image_on():
    full, bare = (stage(condition_dropout=rate).layout(drawn(), np.random.default_rng(0)) for rate in (0.0, 1.0))
    start = full.tokens.tolist().index(IDS.boi)
    assert start > 3
    for name in ("tokens", "targets", "loss_weights", "modality", "slots"):
        np.testing.assert_array_equal(getattr(bare, name), getattr(full, name)[start:])
    assert bare.views.keys() == full.views.keys() and bare.task == Task.GENERATION
    guided = SYSTEM.unconditional(drawn()).tokens
    assert bare.tokens[: len(guided)].tolist() == guided.tolist()  # what guidance compares with


def test_conditions_are_dropped_at_their_rate_from_drawings_alone():
    made, rng = stage(condition_dropout=0.3), np.random.default_rng(0)
    bare = sum(made.layout(drawn(), rng).tokens[0] == IDS.boi for _ in range(300))
    assert 60 < bare < 120
    assert all(made.layout(seen(), rng).tokens[0] == IDS.bos for _ in range(20))


@pytest.mark.parametrize(("name", "modality"), [("code_dropout", Modality.CODE), ("feature_dropout", Modality.FEATURE)])
def test_single_codes_or_features_are_blanked_where_an_image_is_read(name, modality):
    batch = batch_of(stage(), *[seen()] * 20, drawn())
    modalities = np.asarray(batch["modality"])
    blank = np.asarray(stage_lm._dropped(stage_lm.LMOptions(**{name: 0.3}), batch, jax.random.key(0)))
    assert not blank[-1].any() and not blank[modalities != modality].any()
    share = blank[:-1][modalities[:-1] == modality].mean()
    assert 0.15 < share < 0.45
    assert len(set(map(bytes, blank[:-1]))) > 1  # each line draws its own
    assert stage_lm._dropped(stage_lm.LMOptions(), batch, jax.random.key(0)) is None


def test_a_blanked_code_is_the_pad_id_and_a_blanked_feature_zeros(params):
    batch = batch_of(stage(), seen())
    modality = np.asarray(batch["modality"])
    blank = np.zeros(modality.shape, bool)
    code, feature, word = (np.flatnonzero(modality[0] == kind)[2] for kind in (Modality.CODE, Modality.FEATURE, 0))
    blank[0, [code, feature, word]] = True
    plain, blanked = SYSTEM.embed(params, batch), SYSTEM.embed(params, {**batch, "blank": jnp.asarray(blank)})
    np.testing.assert_array_equal(blanked[0, code], params["lm"]["embed"]["embedding"][IDS.pad])
    np.testing.assert_array_equal(blanked[0, feature], 0)
    assert np.abs(np.asarray(plain)[0, [code, feature]]).min() > 0
    kept = ~np.isin(np.arange(blank.shape[1]), [code, feature])  # words stay
    np.testing.assert_array_equal(np.asarray(blanked)[0, kept], np.asarray(plain)[0, kept])


@pytest.mark.slow
def test_what_is_blanked_cannot_change_the_loss(params):
    codes = RNG.integers(0, 256, (2, 1, 1, 16))

    @functools.cache
    def loss(code_dropout, feature_dropout, picture, which):
        made = stage(code_dropout=code_dropout, feature_dropout=feature_dropout)
        batch = batch_of(made, seen(picture), codes=codes[which])
        batch["totals"] = made.counts(batch)
        return float(made.phases[0].loss(params, {}, batch, jax.random.key(0), {})[0])

    assert loss(0.0, 0.0, 0, 0) != loss(0.0, 0.0, 0, 1) and loss(0.0, 0.0, 0, 0) != loss(0.0, 0.0, 1, 0)
    assert loss(1.0, 0.0, 0, 0) == loss(1.0, 0.0, 0, 1) and loss(1.0, 0.0, 0, 0) != loss(1.0, 0.0, 1, 0)
    assert loss(0.0, 1.0, 0, 0) == loss(0.0, 1.0, 1, 0) and loss(0.0, 1.0, 0, 0) != loss(0.0, 1.0, 0, 1)


def test_the_paper_learns_answers_and_codes_alone():
    """Section 3.3; the rows are the released ones."""
    made, released = stage(targets="paper"), stage()
    answer = [*SYSTEM.vocabulary.encode("a red seven"), IDS.end_of_turn]
    question = made.layout(seen(), np.random.default_rng(0))
    assert question.targets[question.loss_weights > 0].tolist() == answer
    also = released.layout(seen(), np.random.default_rng(0))
    assert also.targets[also.loss_weights > 0].tolist() == [IDS.sep, *answer]
    np.testing.assert_array_equal(question.tokens, also.tokens)
    drawing = made.layout(drawn(), np.random.default_rng(0))
    learnt = np.flatnonzero(drawing.loss_weights)
    np.testing.assert_array_equal(learnt + 1, np.flatnonzero(drawing.modality == Modality.CODE))
    assert (drawing.targets[drawing.loss_weights == 0] == 0).all()
    words = Example("words", (Turn("user", "hm"), Turn("assistant", "a red seven")), (), Task.TEXT)
    text = made.layout(words, np.random.default_rng(0))
    assert text.targets[text.loss_weights > 0].tolist() == answer


def test_both_routes_of_the_codes_give_the_same_batch(params, tmp_path):
    """Codes of `unitok tokenize` against those that the step encodes."""
    talk = [{"from": "human", "value": "<image>which?"}, {"from": "gpt", "value": "two"}]
    records = [
        ("conversation", {"image": PICTURES[0], "conversations": talk}),
        ("generate", {"image": PICTURES[1], "caption": "a blue two"}),
        ("caption", {"image": PICTURES[2], "caption": "a red one"}),
    ]
    pipeline = Pipeline(SYSTEM, params, InferenceSettings(batch_size=2))
    tokenize_source(pipeline, [record for _, record in records], str(tmp_path), {}, shards=1)
    shards = open_source("arrayrecord", {"path": str(tmp_path)}, "test")
    made, batches = stage(), []
    for codes, held in ((False, [record for _, record in records]), (True, [shards[i] for i in range(3)])):
        named = zip(records, held, strict=True)
        examples = [to_example(task, {"id": "x", **r}, (), np.random.default_rng(0)) for (task, _), r in named]
        rows = [made.layout(example, np.random.default_rng(0)) for example in examples]
        packed = jax.tree.map(jnp.asarray, float_pixels(packing.pack([[row] for row in rows], made.spec, codes)))
        assert ("codes" in packed) == codes and ("vqgan" in packed["pixels"]) != codes
        batches.append(jax.jit(functools.partial(stage_lm.with_codes, SYSTEM))(params, packed))
    ours, theirs = ({name: x for name, x in batch.items() if name not in ("pixels", "filled")} for batch in batches)
    assert len(set(np.asarray(ours["codes"]).ravel().tolist())) > 4
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(batches[0]["pixels"]["siglip"], batches[1]["pixels"]["siglip"])
