"""UniWeTok's recipes: whole at full size without allocating it, and trained for two steps when tiny."""

import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from unitok_jax import cli
from unitok_jax.config import load_config
from unitok_jax.errors import UserError
from unitok_jax.training.config import read_config
from unitok_jax.training.setup import prepare

FOLDER = Path(__file__).parents[2] / "configs" / "uniwetok"
ABLATIONS = ("cnn", "bs1024", "no_siglu", "no_pre,no_post", "linear_head", "no_prior", "no_query", "datacomp", "wetok")


def recipe(name: str, *words: str):
    return load_config(f"{FOLDER / name}.py:{','.join(words)}")


def sizes(setup):
    params = setup.abstract.params
    return {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params[part])) / 1e6 for part in params}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "millions"),
    [
        pytest.param("tokenizer", "", {"vae": 621.6, "prior": 8.6, "vit": 428.3}, marks=pytest.mark.exhaustive),
        pytest.param("tokenizer", "stage2", {"vae": 621.6}, marks=pytest.mark.exhaustive),
        ("c2i", "", {"generator": 242.6, "vae": 621.6}),
        pytest.param("c2i", "bitdance,16x", {"generator": 260.1, "vae": 460.3}, marks=pytest.mark.exhaustive),
        pytest.param("c2i", "bitdance,H", {"generator": 1008.0}, marks=pytest.mark.exhaustive),
        pytest.param("lm", "edit", {"vae": 621.6}, marks=pytest.mark.exhaustive),
        pytest.param("lm", "bitdance,P64,large", {"vae": 460.3}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_recipe_is_whole_at_full_size(name, words, millions):
    config = recipe(name, words)
    if name == "lm":
        config.model.vocabulary = None  # Qwen's text tokenizer does not come with the project
    found = sizes(prepare(read_config(config)[0]))
    assert {part: round(found[part], 1) for part in millions} == millions


def test_words_change_what_they_say():
    options = {words: recipe("tokenizer", words).stage_options for words in ABLATIONS}
    assert "distill" not in options["no_pre,no_post"] and "prior" not in options["no_prior"]
    assert options["linear_head"].distill.pool.kind == "linear" and options["wetok"].commitment == 0.25
    assert not options["no_query"].prior.network.learned_query
    assert recipe("tokenizer", "no_siglu").model.vae.siglu is False
    assert recipe("tokenizer", "cnn").model.vae.attn_blocks == 0
    assert recipe("tokenizer", "bs1024").data.batch_size == 1024
    assert recipe("tokenizer", "stage3").init_from.vae == "runs/uniwetok/tokenizer-stage2"
    assert recipe("lm", "bitdance,P64").model.lm.vocab_size == 151988
    assert recipe("lm").model.lm.vocab_size == 151797
    assert recipe("tokenizer", "datacomp").model.vae.attn_blocks == 0  # the paper's rows on DataComp
    fades = [tuple(recipe("c2i", *words).stage_options.crop_fade) for words in (("bitdance",), ())]
    assert fades == [(700, 750), (350, 375)]
    wide = recipe("c2i", "d32c256")
    assert wide.model.generator.channels == 256 and wide.init_from.vae == "ckpts/bitdance/ae_d32c256.safetensors"
    assert max(max(size) for size in recipe("tokenizer", "stage2").stage_options.sizes) == 1024
    with pytest.raises(UserError, match="no such word 'no_siglo'"):
        recipe("tokenizer", "no_siglo")


def types_of(config) -> dict[str, str]:
    """Every ``dtype`` of a config, by its path."""
    found = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            found |= {f"{key}.{inner}": dtype for inner, dtype in types_of(value).items()}
        elif key == "dtype":
            found[key] = value
    return found


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("tokenizer", ("vae", "distill.teacher", "distill.pool", "prior.network", "prior.network.head")),
        ("c2i", ("vae", "generator", "generator.head")),
        ("lm", ("vae", "lm", "flow")),
    ],
)
def test_networks_compute_in_bfloat16(name, networks):
    config = recipe(name)
    found = types_of(config.model) | types_of(config.stage_options)
    assert set(found.values()) == {"bfloat16"} and {f"{network}.dtype" for network in networks} <= set(found)


def test_the_objective_stays_float32_where_networks_compute_in_bfloat16():
    config = recipe("tokenizer", "tiny")
    with config.unlocked():
        options = config.stage_options
        prior = options.prior.network
        for network in (config.model.vae, options.distill.pool, options.distill.teacher, prior, prior.head):
            network.dtype = "bfloat16"
        options.adversary.discriminator.dtype = "bfloat16"
    stage = prepare(read_config(config)[0]).stage
    params, state = jax.eval_shape(stage.init, jax.random.key(0))
    pixels = jax.ShapeDtypeStruct((2, 1, 32, 32, 3), np.float32)
    batch = {"pixels": {"32x32": pixels}, "filled": {"32x32": jax.ShapeDtypeStruct((2, 1), bool)}}
    batch["totals"] = {"pictures": jax.ShapeDtypeStruct((), np.float32)}
    loss, aux, _, carry = jax.eval_shape(stage.phases[0].loss, params, state, batch, jax.random.key(0), {})
    assert {leaf.dtype.name for leaf in jax.tree.leaves((loss, carry))} == {"float32"}
    assert {m.total.dtype.name for name, m in aux.items() if name.startswith("loss/")} == {"float32"}


def train(folder: Path, name: str, *words: str) -> list[dict]:
    sys.path.insert(0, str(FOLDER.parents[1]))
    spec = f"{FOLDER / name}.py:{','.join(('tiny', *words))}"
    assert cli.main(["train", "--config", spec, "--workdir", str(folder / "run")]) == 0
    return [json.loads(line) for path in sorted(folder.glob("run/metrics/*.jsonl")) for line in path.open()]


def check_trained(rows: list[dict], phases: tuple[str, ...]) -> None:
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert all(np.isfinite(row[f"loss/{phase}"]) and row[f"skipped/{phase}"] == 0 for phase in phases)
        assert not row["bad_examples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "phases"),
    [
        ("tokenizer", (), ("tokenizer", "discriminator")),
        pytest.param("c2i", ("4x",), ("c2i",), marks=pytest.mark.exhaustive),
        ("lm", ("P4",), ("lm",)),
        pytest.param("tokenizer", ("stage2",), ("tokenizer", "discriminator"), marks=pytest.mark.exhaustive),
        pytest.param("c2i", ("bitdance", "L"), ("c2i",), marks=pytest.mark.exhaustive),
        pytest.param("lm", ("edit",), ("lm",), marks=pytest.mark.exhaustive),
        pytest.param("tokenizer", ("linear_head",), ("tokenizer",), marks=pytest.mark.exhaustive),
        pytest.param("tokenizer", ("wetok",), ("tokenizer",), marks=pytest.mark.exhaustive),
    ],
)
def test_a_tiny_recipe_trains(name, words, phases, tmp_path):
    rows = train(tmp_path, name, *words)
    check_trained(rows, phases)
