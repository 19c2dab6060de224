"""UniToken's recipes: whole at full size without allocating it, and trained for two steps on local files when tiny."""

import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from unitoken_tiny import train

from unitok_jax import cli
from unitok_jax.config import load_config
from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.systems.unitoken.config import RELEASED_CANVASES
from unitok_jax.systems.unitoken.vocabulary import code_name
from unitok_jax.training.config import read_config
from unitok_jax.training.metrics import read_metrics
from unitok_jax.training.optimizers import build_optimizers
from unitok_jax.training.setup import prepare
from unitok_jax.weights.transfer import flat

FOLDER = Path(__file__).parents[2] / "configs" / "unitoken"
RECIPES = [f"{variant}_{stage}" for variant in ("base", "anyres") for stage in ("stage1", "stage2")]
VARIANTS = [(), ("paper",), ("packed",), ("bucketed",)]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tokenizer file with the ids of the released one, and no text but single characters."""
    names = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 8196: "<eoss>", 8197: "<racm3:break>", 8198: "<sentinel:0>"}
    names |= {4 + code: code_name(code) for code in range(8192)}
    names |= {i: f"<reserved{i - 4:05d}>" for i in range(8710, 8904)}
    names |= {16853: " "}
    vocab = {names.get(i, f"word{i}"): i for i in range(65536)}
    folder = tmp_path_factory.mktemp("ckpts")
    path = folder / "chameleon" / "tokenizer" / "text_tokenizer.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}})
    )
    return folder


def recipe(name: str, *words: str):
    return load_config(f"{FOLDER / name}.py:{','.join(words)}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] if name in ("base_stage2", "anyres_stage1") else [])
        for name in RECIPES
    ],
)
def test_a_recipe_is_whole_at_full_size(name, released):
    config, _ = read_config(recipe(name, f"weights={released}"))
    setup = prepare(config)
    params = setup.abstract.params
    sizes = {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[part])) for part in params}
    assert sizes["lm"] + sizes["vit"] + sizes["adapter"] == pytest.approx(7.463e9, rel=1e-3)
    members = setup.optimizers["lm"].members
    assert any(path.startswith("lm/") for path in members) == name.endswith("2")
    assert not any(part in path for path in members for part in ("vit/embeddings/", "vit/head/", "vqgan/"))
    moments = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(setup.abstract.opt_state["lm"]))
    trained = sum(math.prod(leaf.shape) for path, leaf in flat(params).items() if path in members)
    assert moments == 2 * trained + 1
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(params["lm"])}
    assert kinds == {"float32" if name.endswith("2") else "bfloat16"}
    vocabulary = setup.system.vocabulary.ids
    assert (vocabulary.boi, vocabulary.sep, vocabulary.newline, vocabulary.grid) == (8197, 8198, 8803, 8804)
    assert vocabulary.image_prefix == (16853,)


@pytest.fixture(scope="module")
def full_size(released):
    """The parameters' shapes, which are those of every recipe of UniToken."""
    config, _ = read_config(recipe("base_stage1", f"weights={released}"))
    system = base.build("unitoken", config.model)
    return jax.eval_shape(lambda: system.init(jax.random.key(0), ("lm", "vit", "adapter", "vqgan")))


@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: "".join(words) or "released")
@pytest.mark.parametrize("name", RECIPES)
def test_what_every_variant_trains_at_full_size(name, words, full_size, released):
    config, _ = read_config(recipe(name, *words, f"weights={released}"))
    system = base.build("unitoken", config.model)
    stage = base.build_stage(system, config.stage, config.stage_options)
    optimizer = build_optimizers(stage, full_size, config.optimizer, config.optimizers, config.steps)["lm"]
    paths = flat(full_size)
    trained = {path for path in paths if path in optimizer.members}
    frozen = r"vqgan/|vit/embeddings/|vit/head/" if name.endswith("2") else r"vqgan/|vit/embeddings/|vit/head/|lm/"
    assert {path for path in paths if not re.match(frozen, path)} == trained
    numbers = sum(math.prod(paths[path].shape) for path in trained)
    assert numbers == pytest.approx(7.447e9 if name.endswith("2") else 0.434e9, rel=5e-3)
    assert set(config.init_from) | set(config.fresh) == {path.split("/")[0] for path in paths}
    room = stage.spec.views["siglip"]
    assert (room.images, room.height) == (
        (5 if name.startswith("anyres") else 1) * (3 if "packed" in words else 1),
        384,
    )
    assert stage.spec.views["vqgan"].codes == (1024,)


@pytest.mark.parametrize("name", RECIPES)
def test_the_released_numbers(name):
    config = recipe(name)
    first = name.endswith("1")
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.groups[0]["lr_scale"]) == ((1e-3, 1e-2) if first else (1e-5, 1.0))
    assert optimizer.decay_all and optimizer.weight_decay == 0.1 and optimizer.clip == 4.0
    assert config.steps == (19648 if first else 141373)
    assert optimizer.schedule.warmup == pytest.approx(0.01 * config.steps)
    assert tuple(config.model.canvases) == (RELEASED_CANVASES if name.startswith("anyres") else ())
    assert config.data.batch_size == 128 and config.stage_options.z_loss == 1e-5 and config.model.lm.dropout == 0.05


def test_words_change_what_they_say(released):
    paper = recipe("base_stage2", "paper")
    assert paper.steps == 156250 and paper.inference.draw.guidance == 5.5
    drawn = [entry["weight"] for entry in paper.data.train if entry["task"] == "generate"]
    assert sum(drawn) == 10_000_000 and sum(e["weight"] for e in paper.data.train) == pytest.approx(20_000_000)
    for words in (("paper",), ("packed",), ("bucketed",)):
        for name in ("base_stage2", "anyres_stage2"):
            config, _ = read_config(recipe(name, *words, f"weights={released}"))
            stage = base.build_stage(base.build("unitoken", config.model), config.stage, config.stage_options)
            assert stage.spec.length % 128 == 0 and all(length % 128 == 0 for length in stage.spec.lengths)
            assert stage.spec.pack == (words == ("packed",)) and bool(stage.spec.lengths) == (words == ("bucketed",))
            assert all(length > stage.spec.added + 1060 for length in stage.spec.lengths)
            assert stage.spec.length >= stage.spec.added // stage.spec.views["vqgan"].images + 4096
            config.data_settings  # noqa: B018  its keys are read
    tiny = {words: recipe("base_stage2", "tiny", *words).data.train for words in ((), ("data=sets",))}
    assert [(entry["kind"], entry["task"]) for entry in tiny[()]] == [("digits", "caption"), ("digits", "generate")]
    assert tiny["data=sets",][0]["path"] == "sets/sharegpt4v_en.jsonl"
    with pytest.raises(UserError, match="no such word 'packd'"):
        recipe("base_stage1", "packd")
    with pytest.raises(UserError, match="exclude each other"):
        recipe("base_stage1", "packed", "bucketed")


def _check_trained(rows: list[dict]) -> None:
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["loss/lm"]) and row["skipped/lm"] == 0 for row in rows)
    assert not any(row["bad_examples"] for row in rows)


@pytest.mark.slow
def test_a_tiny_recipe_trains(tmp_path):
    """On the digits that it brings."""
    spec = f"{FOLDER / 'anyres_stage2'}.py:tiny"
    assert cli.main(["train", "--config", spec, "--workdir", str(tmp_path)]) == 0
    _check_trained(read_metrics(tmp_path))


@pytest.mark.slow
def test_batches_by_length_need_no_recorded_lengths(tmp_path):
    """Measured at the first start, found in the index at the next."""
    _check_trained(train(tmp_path, "base_stage1", "bucketed")[1])
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "lengths").iterdir()}
    assert len(kept) == 3  # the sets of stage I
    spec = f"{FOLDER / 'base_stage1'}.py:tiny,bucketed,data={tmp_path}"
    assert cli.main(["train", "--config", spec, "--workdir", str(tmp_path / "second")]) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "lengths").iterdir()} == kept


@pytest.mark.exhaustive
@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: "".join(words) or "released")
@pytest.mark.parametrize("name", RECIPES)
def test_every_tiny_recipe_trains(name, words, tmp_path):
    _check_trained(train(tmp_path, name, *words)[1])
