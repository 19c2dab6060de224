"""Tar's recipes: built at full size without allocating anything, and trained for two steps when tiny."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from unitok_jax.config import load_config
from unitok_jax.systems import base
from unitok_jax.training.config import read_config
from unitok_jax.training.loop import train
from unitok_jax.training.setup import prepare

RECIPES = Path(__file__).parents[2] / "configs" / "tar"
SIZES = {  # recipe: the part that it trains, and its parameters in millions
    "ta_tok.py": ("ta_tok", 591),
    "vq.py": ("vq", 72),
    "ar.py:256": ("ar", 654),
    "ar.py:512": ("ar", 655),
    "ar.py:1024": ("ar", 659),
    "sana.py": ("sana", 590),
    "sana.py:1024": ("sana", 590),
    "pretrain.py:1.5b": ("lm", 1644),
    "pretrain.py:7b,demo": ("lm", 8083),
    "sft.py:7b": ("lm", 8083),
}


QUICK = ("ta_tok.py", "vq.py", "ar.py:256", "pretrain.py:7b,demo")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [recipe if recipe in QUICK else pytest.param(recipe, marks=pytest.mark.exhaustive) for recipe in SIZES]
)
def test_full_size(recipe):
    config = read_config(load_config(str(RECIPES / recipe)))[0]
    part, millions = SIZES[recipe]
    setup = prepare(dataclasses.replace(config, model=base.without_files("tar", config.model)))
    sizes = [leaf.size for leaf in jax.tree.leaves(setup.abstract.params[part])]
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=1.5)
    assert not [path for path in setup.reports if "fsdp" in path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    ["ta_tok", "pretrain", *(pytest.param(r, marks=pytest.mark.exhaustive) for r in ("ar", "vq", "sana", "sft"))],
)
def test_two_tiny_steps(recipe, tmp_path):
    config = load_config(str(RECIPES / f"{recipe}.py:tiny"))
    train(config, str(tmp_path))
    rows = [json.loads(line) for file in sorted(tmp_path.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    losses = [value for row in rows for name, value in row.items() if name.startswith("loss/")]
    assert losses
    assert all(value == value for value in losses)
