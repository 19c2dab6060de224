"""A trained model out of its workdir."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.settings import from_config
from unitok_jax.systems import base
from unitok_jax.training.checkpoints import find_step, load_parts, saved_types
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.workdir import parts_of, read_workdir


def abstract_params(config: TrainConfig) -> Any:
    """Shapes and types of a recipe's parameters."""
    stage = base.build_stage(base.build(config.system, config.model), config.stage, config.stage_options)
    return jax.eval_shape(stage.init, jax.random.key(0))[0]


def load_pipeline(workdir: epath.PathLike) -> tuple[Pipeline, TrainConfig]:
    """The model of a workdir's last complete step, on the first device; the moving average where the run kept one.

    Types are those of the checkpoint. An imported folder may lack parts of its stage.

    Raises:
        UserError: if there is none, or it is not the config's model.
    """
    config = read_workdir(workdir)
    step = find_step(workdir)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    stored = saved_types(step)
    wanted = {part: leaves for part, leaves in abstract_params(config).items() if part in parts_of(stored)}
    shapes = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(leaf.shape, stored.get(_name(path), leaf.dtype), sharding=place), wanted
    )
    system = base.build(config.system, config.model)
    settings = from_config(InferenceSettings, config.inference, "config.inference")
    return Pipeline(system, load_parts(step, shapes), settings, _progress()), config


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
