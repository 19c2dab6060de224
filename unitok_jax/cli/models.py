"""A trained model out of its workdir."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.parallel.mesh import AXES, MeshSettings, build_mesh
from unitok_jax.parallel.rules import param_shardings
from unitok_jax.settings import from_config, near
from unitok_jax.systems import base
from unitok_jax.training.checkpoints import find_step, load_parts, saved_types
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.workdir import parts_of, read_workdir


def abstract_params(config: TrainConfig) -> Any:
    """Shapes and types of a recipe's parameters."""
    stage = base.build_stage(base.build(config.system, config.model), config.stage, config.stage_options)
    return jax.eval_shape(stage.init, jax.random.key(0))[0]


def load_pipeline(
    workdir: epath.PathLike, mesh: str | None = None, recipe: TrainConfig | None = None
) -> tuple[Pipeline, TrainConfig]:
    """The model of a workdir's last complete step on this process's devices; the moving average where the run kept one.

    Types are those of the checkpoint; every array is read straight into its place. An imported folder may lack parts
    of its stage.

    Args:
        workdir: of a run, or an imported folder.
        mesh: devices along each axis, such as ``data=2,tensor=4``; by default all share one copy (``fsdp=-1``).
        recipe: whose `model` reads pictures with the run's parameters, in the place of the run's own.

    Raises:
        UserError: if there is none, it is not the config's model, or the mesh does not fit the devices.
    """
    laid_out = build_mesh(read_mesh(mesh), jax.local_devices(), "--mesh")
    config = read_workdir(workdir)
    model = config.model if recipe is None else base.without_files(recipe.system, recipe.model)
    if recipe is not None and recipe.system != config.system:
        raise UserError(f"--config: a recipe of {recipe.system}, but {workdir} is a run of {config.system}")
    step = find_step(workdir)
    system = base.build(config.system, model)
    stored = saved_types(step)
    wanted = {part: leaves for part, leaves in abstract_params(config).items() if part in parts_of(stored)}
    places, _ = param_shardings(system.sharding, wanted, laid_out)
    shapes = jax.tree_util.tree_map_with_path(
        lambda path, leaf, place: jax.ShapeDtypeStruct(leaf.shape, stored.get(_name(path), leaf.dtype), sharding=place),
        wanted,
        places,
    )
    settings = from_config(InferenceSettings, config.inference, "config.inference")
    return Pipeline(system, load_parts(step, shapes), settings, _progress(), laid_out), config


def read_mesh(text: str | None) -> MeshSettings:
    """`--mesh`: ``axis=size`` with commas between; what is not named is 1.

    Raises:
        UserError: for an unknown axis, or a size that is no number.
    """
    sizes = {"data": 1, "fsdp": 1 if text else -1}
    for item in filter(None, (text or "").split(",")):
        axis, _, size = item.partition("=")
        if axis not in AXES:
            raise UserError(f"--mesh {text}: no axis {axis!r}.{near(axis, AXES)}")
        if not re.fullmatch(r"-1|\d+", size):
            raise UserError(f"--mesh {text}: expected {axis}=NUMBER, or {axis}=-1 for what is left, got {item!r}")
        sizes[axis] = int(size)
    return MeshSettings(**sizes)


def _name(path: jax.tree_util.KeyPath) -> str:
    return "/".join(str(key.key) for key in path)


@contextlib.contextmanager
def using(pipeline: Pipeline, config: TrainConfig) -> Iterator[None]:
    """Around a command's work: says so if it needs a part of the system that the run does not have."""
    try:
        yield
    except KeyError as error:
        part = error.args[0]
        if not isinstance(part, str) or part in pipeline.params:
            raise
        parts = ", ".join(pipeline.params)
        raise UserError(
            f"a run of stage {config.stage!r} has only {parts}; this command also needs {part!r}"
        ) from error


def _progress() -> Any:
    """A counter that overwrites itself, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return tell
