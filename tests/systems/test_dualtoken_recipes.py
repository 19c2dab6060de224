"""DualToken's recipes: each built at full size without an allocation; the tiny ones take steps."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from unitok_jax.config import load_config
from unitok_jax.systems import base
from unitok_jax.training import loop
from unitok_jax.training.config import read_config
from unitok_jax.training.metrics import read_metrics
from unitok_jax.training.setup import prepare

CONFIGS = Path(__file__).parents[2] / "configs" / "dualtoken"
sys.path.append(str(CONFIGS.parents[1]))
TOKENIZER = ("", "256", "siglip1", "stage0", "stage2", "paper", "single", "reconstruction", "semantic", "released_ema")
LM = ("", "256", "sft", "per_depth", "mean", "sem_alone")
NAMES = [f"tokenizer.py:{arg}" for arg in TOKENIZER] + [f"lm.py:{arg}" for arg in LM]
VARIANTS = [pytest.param(name, marks=[] if name.endswith(":") else pytest.mark.exhaustive) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_recipe_builds_at_full_size(variant):
    config, _ = read_config(load_config(str(CONFIGS / variant)))
    text = {"vocabulary": "weights/Qwen2.5-3B/tokenizer.json"} if "lm.py" in variant else {"text_pad": 0}
    assert text.items() <= config.model.items() or {"paper", "siglip1"} & set(variant.split(":"))
    config = dataclasses.replace(config, model=base.without_files(config.system, config.model))
    made = prepare(config)
    parts = set(made.abstract.params)
    assert parts == {*config.init_from, *config.fresh}
    assert made.abstract.params["codebooks"]["sem"]["book_0"]["weight"].dtype == np.float32
    frozen = "teacher" if "teacher" in parts else ("text" if "text" in parts else "vit")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made.abstract.params[frozen])} == {"bfloat16"}


def row_of(variant, tmp_path):
    loop.train(load_config(str(CONFIGS / variant)), tmp_path)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    return rows[-1]


@pytest.mark.slow
def test_the_released_tokenizer_takes_steps(tmp_path):
    row = row_of("tokenizer.py:tiny", tmp_path)
    assert np.isfinite([row["loss/tokenizer"], row["loss/discriminator"]]).all()
    assert row["loss/adversarial"] != 0  # the adversary has begun
    names = {"semantic", "semantic_cosine", "pooler", "pooler_cosine", "commit_pix", "commit_sem", "l2", "perceptual"}
    assert names <= {name.removeprefix("loss/") for name in row}
    assert {f"codebook/{b}/{n}" for b in ("pix", "sem") for n in ("usage_0", "usage_1", "dead", "spread")} <= set(row)


@pytest.mark.exhaustive
@pytest.mark.parametrize("word", ["stage0", "stage2", "paper", "single", "reconstruction", "semantic"])
def test_the_other_tokenizers_take_steps(word, tmp_path):
    assert np.isfinite(row_of(f"tokenizer.py:tiny,{word}", tmp_path)["loss/tokenizer"])


@pytest.mark.slow
@pytest.mark.parametrize("word", ["mean", pytest.param("per_depth", marks=pytest.mark.exhaustive)])
def test_the_language_model_takes_steps(word, tmp_path):
    row = row_of(f"lm.py:tiny,{word}", tmp_path)
    assert np.isfinite([row[f"loss/{name}"] for name in ("lm", "pix", "sem", "understanding", "generation")]).all()
