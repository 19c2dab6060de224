"""Every shipped recipe at full size on its own mesh: each leaf has one rule, nothing large is whole, bytes add up."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh

from unitok_jax.config import load_config
from unitok_jax.parallel.mesh import AXES, MeshSettings, mesh_shape
from unitok_jax.planning.plan import state_bytes
from unitok_jax.planning.programs import without_text
from unitok_jax.training.config import read_config
from unitok_jax.training.optimizers import trained_paths
from unitok_jax.training.partition import split
from unitok_jax.training.setup import Setup, prepare_on

ROOT = Path(__file__).parents[2]
CHIPS = 64
LARGE = 4 << 20  # elements
SMALL = 48 << 20  # bytes of codebooks, their moments and statistics, which lie whole
FAST = ("unitoken/base_stage2.py", "dualtoken/lm.py", "tar/sft.py:7b", "uniwetok/lm.py:bitdance,P64,large")
CROSS = MeshSettings(data=2, fsdp=4, tensor=4, context=2)


def recipes() -> list[str]:
    """Recipes of all systems and their other sizes, as `make plans` has them; those of the demo are small, and files
    without `get_config` are their parts."""
    files = sorted(path for path in (ROOT / "configs").glob("*/*.py") if path.parent.name != "demo")
    variants = re.search(r"^variants = (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    return [f"{f.parent.name}/{f.name}" for f in files if "def get_config" in f.read_text()] + variants


def planned(recipe: str, mesh: MeshSettings | None = None) -> Setup:
    """The pieces of a recipe's run on chips that are not there, on its own mesh or another."""
    config = without_text(read_config(load_config(str(ROOT / "configs" / recipe)))[0])
    config = dataclasses.replace(config, mesh=mesh or config.mesh)
    chips = math.gcd(CHIPS, config.batch_size) if mesh is None else CHIPS
    return prepare_on(config, AbstractMesh(mesh_shape(config.mesh, chips), AXES))


def left_whole(setup: Setup) -> list[str]:
    """The large leaves of the train state that lie whole on every device."""
    return [
        f"{jax.tree_util.keystr(path)} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(setup.abstract)
        if math.prod(leaf.shape) > LARGE and leaf.sharding.shard_shape(leaf.shape) == leaf.shape
    ]


def expected_bytes(setup: Setup) -> float:
    """By hand: 4 for a trained number, as much for each moment of Adam and for the average; frozen ones by type."""
    moving, frozen = split(setup.abstract.params, trained_paths(setup.optimizers.values()))
    moments = 1 if any(optimizer.settings.came for optimizer in setup.optimizers.values()) else 2
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(moving))
    kept = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(frozen))
    return 4 * trained * (1 + moments + (setup.config.ema is not None)) + kept


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=() if r in FAST else pytest.mark.slow) for r in recipes()])
def test_nothing_large_is_left_whole(recipe):
    setup = planned(recipe)
    assert not left_whole(setup)
    each = expected_bytes(setup) / setup.mesh.size
    assert each <= state_bytes(setup) <= 1.05 * each + SMALL


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", recipes())
def test_nor_on_a_mesh_with_all_axes(recipe):
    assert not left_whole(planned(recipe, CROSS))


def test_all_systems_are_looked_at():
    assert {recipe.split("/")[0] for recipe in FAST} == {recipe.split("/")[0] for recipe in recipes()}
    assert set(FAST) <= set(recipes())
    assert {recipe.split("/")[0] for recipe in recipes()} == {"unitoken", "dualtoken", "tar", "uniwetok"}
