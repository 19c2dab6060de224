"""Every parameter of every shipped recipe, at full size, is matched by one rule, and nothing large is left whole."""

import math
from pathlib import Path

import jax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh

from unitok_jax.config import load_config
from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import AXES
from unitok_jax.parallel.rules import param_shardings
from unitok_jax.systems import base
from unitok_jax.training.config import read_config

ROOT = Path(__file__).parents[2]
LARGE = 4 << 20  # elements
FAST = "unitoken/base_stage2"


def recipes() -> list[str]:
    """Recipes of all systems; those of the demo are small, and files without `get_config` are their parts."""
    files = sorted(path for path in (ROOT / "configs").glob("*/*.py") if path.parent.name != "demo")
    return [f"{f.parent.name}/{f.stem}" for f in files if "def get_config" in f.read_text()]


def left_whole(recipe: str, shape: tuple[int, ...]) -> tuple[list[str], int]:
    """The large leaves that lie whole on every device of a mesh, and how many leaves there are."""
    config = read_config(load_config(str(ROOT / "configs" / f"{recipe}.py")))[0]
    try:
        system = base.build(config.system, base.without_files(config.system, config.model))
    except UserError as error:
        if "no such" not in str(error):
            raise
        pytest.skip(f"needs a published text tokenizer: {error}")
    stage = base.build_stage(system, config.stage, config.stage_options)
    params = jax.eval_shape(lambda: stage.init(jax.random.key(0)))[0]
    places, _ = param_shardings(system.sharding, params, AbstractMesh(shape, AXES))
    flat = flatten_dict(params, sep="/")
    whole = [
        f"{path} {list(flat[path].shape)}"
        for path, place in flatten_dict(places, sep="/").items()
        if math.prod(flat[path].shape) > LARGE and place.shard_shape(flat[path].shape) == flat[path].shape
    ]
    return whole, len(flat)


@pytest.mark.parametrize(
    "recipe", [pytest.param(r, marks=() if r == FAST else pytest.mark.exhaustive) for r in recipes()]
)
def test_nothing_large_is_left_whole(recipe):
    for shape in ((1, 64, 1, 1), (1, 8, 4, 2)):
        whole, leaves = left_whole(recipe, shape)
        assert leaves > 10
        assert not whole, f"mesh {shape}"


def test_all_systems_are_looked_at():
    assert {recipe.split("/")[0] for recipe in recipes()} >= {"unitoken"}
