"""Tar's vocabulary, rows, tables, drawn scales and decode, on the small bundled tokenizer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitok_jax.data.example import IMAGE, BadExample, Example, Task, Turn
from unitok_jax.data.rows import Modality
from unitok_jax.errors import UserError
from unitok_jax.quantizers import text_aligned
from unitok_jax.sampling.settings import GREEDY, Decoding
from unitok_jax.systems.tar import decoding, embeddings, layout, scales, vocabulary
from unitok_jax.systems.tar.layout import IGNORE, PictureShape
from unitok_jax.weights import hub

WORDS = vocabulary.load(None, 64)
IDS = WORDS.ids
SHAPE = PictureShape((1, 2, 3), (16, 4, 1))
PICTURE = np.zeros((4, 4, 3), np.uint8)
DRAW = Example("draw", (Turn("user", "a red seven"), Turn("assistant", IMAGE)), (PICTURE,), Task.GENERATION)
READ = Example("read", (Turn("user", IMAGE + "what?"), Turn("assistant", "a seven")), (PICTURE,), Task.UNDERSTANDING)


def row(example, scale=2, rule="released", longest=None):
    return layout.conversation(example, WORDS, SHAPE, [scale] * len(example.images), rule, longest)


def test_released_ids():
    ids = vocabulary.TokenIds()
    assert (ids.image_start, ids.scale, ids.code_offset, ids.size) == (151665, 151667, 151670, 217206)


def test_a_vocabulary_comes_from_a_path_or_a_hub_id(tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(vocabulary.TINY.read_text())
    asked = []
    monkeypatch.setattr(hub, "_fetch", lambda *place: asked.append(place) or hub.Located(folder / place[2], "x"))
    assert vocabulary.load("Qwen/Qwen2.5-1.5B-Instruct", 64).ids == IDS
    assert vocabulary.load("Qwen/Qwen2.5-1.5B-Instruct@main:tokenizer.json", 64).ids == IDS
    assert asked == [("Qwen/Qwen2.5-1.5B-Instruct", "main", "tokenizer.json")] * 2
    with pytest.raises(UserError, match=r"no such tokenizer file; expected .* or a hub id"):
        vocabulary.load(str(tmp_path / "gone.json"), 64)


@pytest.mark.parametrize(("scale", "count"), [(1, 16), (2, 4), (3, 1)])
def test_a_drawn_picture_is_announced_by_its_scale_and_learnt(scale, count):
    laid = row(DRAW, scale)
    codes = np.flatnonzero(laid.modality == Modality.CODE)
    assert len(codes) == count
    assert laid.tokens[codes[0] - 2 : codes[0]].tolist() == [IDS.image_start, IDS.scale + scale - 1]
    assert laid.tokens[codes[-1] + 1] == IDS.image_end
    assert (laid.loss_weights[codes - 1] == 1).all()
    first = {1: 0, 2: 16, 3: 20}[scale]
    assert laid.slots[codes].tolist() == list(range(first, first + count))


def test_a_picture_that_is_read_is_neither_announced_nor_learnt():
    laid = row(READ)
    codes = np.flatnonzero(laid.modality == Modality.CODE)
    assert IDS.image_start not in laid.tokens
    assert (laid.loss_weights[codes - 1] == 0).all()


def test_label_rules():
    ids, released = layout.messages(READ.turns, WORDS)
    _, answers = layout.messages(READ.turns, WORDS, "answers")
    learnt = [i for i, label in zip(ids, answers, strict=True) if label != IGNORE]
    assert WORDS.decode(learnt) == "a seven"
    assert learnt[-1] == IDS.turn_end
    assert sum(label == IDS.turn_start for label in released) == ids.count(IDS.turn_start) == 3
    assert all(label == IDS.newline for i, label in zip(ids, released, strict=True) if i == IDS.newline)


def test_rows_are_cut_off():
    assert len(row(DRAW, 1, longest=20).tokens) == 20


def test_pictures_without_symbols_stand_first_and_wrong_numbers_are_refused():
    plain = Example("plain", (Turn("user", "what?"), Turn("assistant", "a seven")), (PICTURE,))
    assert (row(plain).modality == Modality.CODE).sum() == 4
    with pytest.raises(BadExample, match="2 symbols, 1 images"):
        row(Example("two", (Turn("user", IMAGE * 2), Turn("assistant", "no")), (PICTURE,)))


def test_prompts_end_where_the_model_writes():
    ids = layout.prompt(Example("p", DRAW.turns[:1], task=Task.GENERATION), WORDS, SHAPE, 1, draw=True).tokens
    assert ids[-1] == IDS.image_start
    assert WORDS.decode(ids[:-1].tolist()).endswith("assistant\n")


def test_a_tokenizer_of_another_checkpoint_is_refused(tmp_path):
    content = json.loads(vocabulary.TINY.read_text())
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [
        {"id": IDS.image_start, "content": "<im_start>", **added},
        {"id": IDS.image_start + 1, "content": "<S0>", **added},
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="<S0> has id 380, the checkpoint's is 381"):
        vocabulary.load(str(path), 64)
    with pytest.raises(UserError, match="no such tokenizer file"):
        vocabulary.load(str(tmp_path / "none.json"), 64)


def test_tables_grow_as_released():
    table = np.random.default_rng(0).normal(size=(IDS.scale + 7, 8)).astype(np.float32)
    drawn = embeddings.draw_scales(table, IDS, jax.random.key(0))
    np.testing.assert_allclose(drawn, np.broadcast_to(table[: IDS.scale].mean(0), drawn.shape), atol=1e-3)
    codes = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    grown = embeddings.grow(table, IDS, codes, drawn)
    np.testing.assert_array_equal(grown[: IDS.scale], table[: IDS.scale])
    np.testing.assert_array_equal(grown[IDS.code_offset :], codes)
    wide = embeddings.grow(table, IDS, np.zeros((64, 5)), drawn)
    np.testing.assert_allclose(wide[IDS.code_offset :], np.broadcast_to(wide[: IDS.code_offset].mean(0), (64, 8)))
    far = np.random.default_rng(2).normal(size=(64, 5))
    projected = embeddings.grow(table, IDS, far, drawn, "projected", jax.random.key(1))[IDS.code_offset :]
    assert len(np.unique(projected.round(4), axis=0)) == 64


def test_scales_are_drawn_two_to_one_to_one():
    keys = jax.random.split(jax.random.key(0), 400)
    draw = jax.jit(jax.vmap(lambda key: scales.switch(key, (1, 2, 3), (2, 1, 1), lambda s, _: jnp.int32(s), None)))
    counts = np.bincount(draw(keys), minlength=4)[1:] / 400
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.25], atol=0.07)
    with pytest.raises(UserError, match="one positive weight for each scale"):
        scales.check((1, 2), (1.0,))


GRAMMAR = decoding.Grammar(IDS, (4, 2, 1), scale=2, constrain=True)


def start(last, decoding_settings):
    batch = {"tokens": jnp.array([[5, last, 0]]), "segments": jnp.array([[1, 1, 0]])}
    return decoding.decode_init(GRAMMAR, batch, decoding_settings)


def test_a_drawing_is_its_scale_and_as_many_codes():
    how = Decoding(GREEDY, GREEDY)
    state, ids = start(IDS.image_start, how), []
    logits = jnp.zeros((1, WORDS.size + 3)).at[0, IDS.turn_end].set(9).at[0, IDS.code_offset + 7].set(1)
    keys = jax.random.split(jax.random.key(0), 1)
    step = jax.jit(lambda s: decoding.decode_step(GRAMMAR, logits, lambda i: jnp.zeros((len(i), 1, 1)), s, how, keys))
    while not state.done[0]:
        emission, state = step(state)
        ids.append(int(emission.codes[0, 0]))
    assert ids == [IDS.scale + 1, *[IDS.code_offset + 7] * 4]
    text, images = decoding.read_ids(ids, GRAMMAR)
    assert not text
    np.testing.assert_array_equal(images[0], np.full((2, 2), 7))


def test_what_is_missing_of_a_drawing_is_code_zero_and_the_rest_is_cut_off():
    short = [IDS.scale, IDS.code_offset + 3, 5, IDS.image_end]
    text, images = decoding.read_ids(short, GRAMMAR)
    assert text == [5]
    assert images[0].shape == (4, 4)
    assert images[0].sum() == 3
    _, images = decoding.read_ids([IDS.code_offset + 1] * 9, GRAMMAR)
    np.testing.assert_array_equal(images[0], np.ones((2, 2)))


def test_the_grid_of_a_call_picks_the_scale():
    assert GRAMMAR.drawn_scale(Decoding()) == 2
    assert GRAMMAR.drawn_scale(Decoding(grid=(4, 4))) == 1
    with pytest.raises(UserError, match="no pool scale has it"):
        GRAMMAR.drawn_scale(Decoding(grid=(3, 3)))


def test_search_in_chunks_finds_what_a_whole_search_finds():
    rng = np.random.default_rng(0)
    rows = text_aligned.source(jnp.asarray(rng.normal(size=(37, 6))))
    queries = text_aligned.source(jnp.asarray(rng.normal(size=(2, 9, 6))))
    for l2_norm in (True, False):
        whole = text_aligned.scores(queries, rows, l2_norm=l2_norm).argmax(-1)
        np.testing.assert_array_equal(text_aligned.search(queries, rows, l2_norm=l2_norm, chunk=5), whole)
    same = jnp.concatenate([rows, rows])
    assert (text_aligned.search(queries, same, chunk=5) < 37).all()


def test_drawn_codes_follow_the_softmax():
    rows, query = jnp.eye(3), jnp.array([[0.0, 0.01, 0.02]])
    queries = jnp.broadcast_to(query, (4000, 3))
    drawn = text_aligned.search(queries, rows, key=jax.random.key(0), temperature=0.03, chunk=2)
    np.testing.assert_allclose(np.bincount(drawn) / 4000, jax.nn.softmax(query[0] / 0.03), atol=0.03)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_words_are_chosen_by_their_mean_distance(metric):
    table = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    table[5] *= 10
    if metric == "euclidean":
        mean = np.linalg.norm(table[:, None] - table, axis=-1).mean(1)
    else:
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        mean = (1 - unit @ unit.T).mean(1)
    np.testing.assert_allclose(text_aligned.mean_distances(jnp.asarray(table), metric, 7), mean, rtol=1e-4)
    chosen = text_aligned.choose_words(jnp.asarray(table), 4, metric=metric, chunk=7)
    np.testing.assert_array_equal(chosen, np.sort(np.argsort(-mean)[:4]))
