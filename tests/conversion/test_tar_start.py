"""What Tar's recipes begin from: tables grown, stretched and chosen as they are read, by `config.start`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tar_release import DECODER, MODEL, TOWER
from tiny_release import make_run

from unitok_jax.backbones.ar_image import stretch_positions
from unitok_jax.errors import UserError
from unitok_jax.quantizers import text_aligned
from unitok_jax.systems import base
from unitok_jax.training.config import read_config
from unitok_jax.training.setup import prepare
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.torch_writer import save_torch
from unitok_jax.weights.transfer import export_tree

SMALL = {"encoder": {**TOWER, "width": 8}, "decoder": {**DECODER, "width": 8, "channels": 8}, "codebook_size": 32}


def begin(stage, model, init_from, start, fresh=(), **options):
    """The first state of a recipe, and its system."""
    recipe = {"system": "tar", "stage": stage, "stage_options": options, "steps": 1, "data": {"batch_size": 1}}
    recipe |= {"optimizer": {"lr": 1e-3}, "model": model, "init_from": init_from, "start": start, "fresh": list(fresh)}
    setup = prepare(read_config(recipe)[0])
    return setup.first_state().params, setup.system


def published(folder, system, artefact, *parts):
    """Random parts as a published file; returns the parts too."""
    params = jax.jit(lambda: system.init(jax.random.key(3), parts))()
    source = export_tree(system.artefacts[artefact], params)
    save_torch(source, folder / f"{artefact}.pth", "model")
    return str(folder / f"{artefact}.pth"), params


def test_the_language_models_tables_grow_as_they_are_read(tmp_path):
    model = {"ta_tok": SMALL, "lm": MODEL["lm"]}
    ids = base.build("tar", model).vocabulary.ids
    qwen = base.build("tar", model)
    rows = ids.scale + 5
    start = qwen.starts["grown"]({"rows": rows})
    assert start.abstract["lm"]["embed"]["embedding"].shape[0] >= rows
    before = {k: np.random.default_rng(0).normal(size=s.shape).astype(np.float32) for k, s in _shapes(start).items()}
    save_torch(InMemory(before), tmp_path / "qwen.pth")
    place, coder = published(tmp_path, qwen, "ta_tok", "ta_tok")
    init_from = {"lm": str(tmp_path / "qwen.pth"), "ta_tok": place}
    params, _ = begin("lm", model, init_from, {"lm": {"name": "grown", "rows": rows}})
    table = np.asarray(params["lm"]["embed"]["embedding"])
    words = before["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table[: ids.scale], words[: ids.scale])
    book = coder["ta_tok"]["codebook"]
    codes = text_aligned.effective_codebook(book["embedding"], book["kernel"], book["bias"])
    np.testing.assert_allclose(table[ids.code_offset : ids.size], codes, atol=1e-6)
    np.testing.assert_allclose(table[ids.scale], words[: ids.scale].mean(0), atol=1e-3)
    assert not table[ids.size :].any()
    with pytest.raises(UserError, match="needs TA-Tok's codebook"):
        begin("lm", model, {"lm": init_from["lm"]}, {"lm": {"name": "grown", "rows": rows}}, ["ta_tok"])


def _shapes(start):
    """Shapes of the published file that a start reads."""
    source = export_tree(start.artefacts["tar"].only("lm"), jax.tree.map(lambda s: np.zeros(s.shape), start.abstract))
    return {key: jax.ShapeDtypeStruct(source.shape(key), np.float32) for key in tuple(source.keys())}


@pytest.mark.slow
def test_a_de_tokenizer_goes_on_at_twice_the_size(tmp_path):
    small = {key: MODEL[key] for key in ("ta_tok", "vq", "ar")}
    (tmp_path / "ar_small").mkdir()
    before = make_run(tmp_path / "ar_small", small, "ar", system="tar")
    model = {**small, "ar": {**MODEL["ar"], "tokens": 64}}
    init_from = dict.fromkeys(("ar", "vq", "ta_tok"), str(tmp_path / "ar_small"))
    params, _ = begin("ar", model, init_from, {"ar": {"name": "stretched", "tokens": 16}})
    old, new = before["ar"]["positions"], np.asarray(params["ar"]["positions"])
    assert new.shape == (16 + 64 - 1, 8)
    np.testing.assert_array_equal(new[:15], old[:15])
    np.testing.assert_allclose(new[15:].mean(0), old[15:].mean(0), atol=0.05)
    np.testing.assert_allclose(new, stretch_positions(jnp.asarray(old), 16, 64), atol=1e-6)
    np.testing.assert_array_equal(params["ar"]["head"]["kernel"], before["ar"]["head"]["kernel"])


@pytest.mark.slow
def test_codes_begin_as_any_language_models_words(tmp_path):
    table = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    table[45:] = 100  # rows that stand for nothing, far from all: never codes
    save_torch(InMemory({"tok_embeddings.weight": table, "norm.weight": table[0]}), tmp_path / "llm.pth")
    tower, params = published(tmp_path, base.build("tar", {"ta_tok": SMALL}), "siglip_vision", "vit")
    start = {"ta_tok": {"name": "words", "rows": 50, "used": 45}}
    made, _ = begin("ta_tok", {"ta_tok": SMALL}, {"vit": tower, "ta_tok": str(tmp_path / "llm.pth")}, start)
    distances = np.linalg.norm(table[:45, None] - table[:45], axis=-1).mean(1)
    chosen = np.sort(np.argsort(-distances)[:32])
    np.testing.assert_array_equal(made["ta_tok"]["codebook"]["embedding"], table[chosen])
    same = lambda a, b: np.testing.assert_array_equal(a, b)  # noqa: E731
    jax.tree.map(same, made["ta_tok"]["encoder"], params["vit"])
    jax.tree.map(same, made["vit"], params["vit"])


@pytest.mark.slow
def test_sana_keeps_all_but_the_layer_that_reads_the_condition():
    sana = {
        **{"channels": 4, "out_channels": 4, "heads": 2, "head_dim": 4, "cross_heads": 2, "cross_head_dim": 4},
        **{"layers": 1, "caption": 8},
    }
    levels = {"blocks": ("ResBlock",) * 2, "widths": (8, 8), "layers": (1, 1), "kernels": ((), ())}
    vae = {"latent": 4, "head_dim": 4, **{f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in levels.items()}}
    system = base.build("tar", {"ta_tok": SMALL, "sana": sana, "vae": vae, "sana_size": 16})
    start = system.starts["recaptioned"]({"caption": 12})
    read = jax.tree.map(lambda s: jnp.ones(s.shape), start.abstract)
    assert read["sana"]["projection"]["fc1"]["kernel"].shape[0] == 12
    made = start.make(jax.random.key(0), read, {})
    wanted = jax.eval_shape(lambda: system.init(jax.random.key(0), ("sana",)))["sana"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, wanted)
    assert (made["projection"]["fc2"]["kernel"] == 1).all() and made["projection"]["fc1"]["kernel"].std() > 0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"ar": {"name": "stretchd"}}, r"config.start.ar.name: no start 'stretchd'. Did you mean stretched\?"),
        ({"ar": {"name": "stretched", "tokns": 4}}, r"config.start \(stretched\).tokns: no such key"),
        ({"ar": {"name": "stretched"}}, "config.init_from.ar must say where the weights are"),
    ],
)
def test_a_wrong_start_is_one_line(start, message):
    model = {key: MODEL[key] for key in ("ta_tok", "vq", "ar")}
    with pytest.raises(UserError, match=message):
        begin("ar", model, {}, start, ["ar", "vq", "ta_tok"])
