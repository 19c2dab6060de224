"""A model to use out of whatever holds one: a run, an import, or published checkpoints."""

import contextlib
import hashlib
import re
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from huggingface_hub import constants

from unitok_jax.conversion.importing import import_checkpoints
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline, Progress
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.parallel.mesh import AXES, MeshSettings, build_mesh
from unitok_jax.parallel.rules import param_shardings
from unitok_jax.settings import from_config, near
from unitok_jax.systems import base
from unitok_jax.training.checkpoints import find_step, load_parts, saved_types
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.workdir import parts_of, read_workdir
from unitok_jax.weights.hub import Located, locate


def load(
    place: str, *others: str, system: str | None = None, revision: str | None = None, variant: str = "auto"
) -> Pipeline:
    """A model to use; see `unitok_jax.load`, which is this."""
    if not others and _is_run(place):
        pipeline, config = load_run(place)
        if system not in (None, config.system):
            raise UserError(f"{place}: holds a {config.system}, not a {system}")
        return pipeline
    if system is None:
        known = ", ".join(base.available())
        raise UserError(f"{place}: no run of ours; for published checkpoints say whose they are: system= ({known})")
    return load_run(_imported([locate(each, revision) for each in (place, *others)], system, variant))[0]


def load_run(
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
    return Pipeline(system, load_parts(step, shapes), settings, terminal_progress(), laid_out), config


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


@contextlib.contextmanager
def using(pipeline: Pipeline, config: TrainConfig) -> Generator[None]:
    """Around work with a run's model: says so if it needs a part of the system that the run does not have."""
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


def abstract_params(config: TrainConfig) -> Any:
    """Shapes and types of a recipe's parameters."""
    stage = base.build_stage(base.build(config.system, config.model), config.stage, config.stage_options)
    return jax.eval_shape(stage.init, jax.random.key(0))[0]


def terminal_progress() -> Progress | None:
    """A counter that overwrites itself, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return tell


def _is_run(place: str) -> bool:
    path = epath.Path(place)
    return (path / "checkpoints").exists() or (path / "params").exists()


def _imported(found: Sequence[Located], system: str, variant: str) -> Path:
    """The import of these checkpoints, made once and kept beside Hugging Face's own cache."""
    told = "\n".join([system, variant, *(f"{each.name} {_stamp(each)}" for each in found)])
    kept = Path(constants.HF_HOME) / "unitok_jax" / hashlib.sha256(told.encode()).hexdigest()[:16]
    if not kept.exists():
        import_checkpoints([each.name for each in found], kept, system=system, variant=variant)
    return kept


def _stamp(each: Located) -> str:
    """What tells a local checkpoint from a later one of the same path; a repository's commit is in its name."""
    if each.name != str(each.path):
        return ""
    files = sorted(each.path.rglob("*")) if each.path.is_dir() else [each.path]
    return " ".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def _name(path: jax.tree_util.KeyPath) -> str:
    return "/".join(str(key.key) for key in path)
