"""`unitok inspect`."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from clu import parameter_overview
from etils import epath
from flax import traverse_util

from unitok_jax.config import config_hash, load_config
from unitok_jax.conversion.loading import abstract_params
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import TrainConfig, read_config
from unitok_jax.training.workdir import (
    STEP_CONFIG,
    origins_of,
    read_workdir,
    stored_leaves,
    workdir_hash,
    workdir_of,
)
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.hub import is_hub_id, locate


def inspect(args: argparse.Namespace) -> None:
    """Prints what a recipe, a workdir or a checkpoint holds."""
    if args.path.partition(":")[0].endswith(".py"):
        config = load_config(args.path)
        _trained(read_config(config)[0], f"config {config_hash(config)}")
        return
    path = epath.Path(locate(args.path).path if is_hub_id(args.path) else args.path)
    if (path / "checkpoints").exists():
        _trained(read_workdir(path), f"last step {find_step(path).name}, config {workdir_hash(path)}", path)
    elif (path / "params").exists() and (path / "config.json").exists():
        _imported(path)
    elif (path / "params").exists() and (path / STEP_CONFIG).exists():
        _trained(read_workdir(path), f"one step of a run, config {workdir_hash(path)}", workdir_of(path))
    else:
        source = open_source(str(path))
        _table({key: jax.ShapeDtypeStruct(source.shape(key), source.dtype(key)) for key in source.keys()})  # noqa: SIM118


def _trained(config: TrainConfig, line: str, workdir: epath.Path | None = None) -> None:
    print(f"system {config.system}, stage {config.stage}, {config.steps} steps of {config.batch_size} rows")
    print(line)
    params = abstract_params(config)
    _parts(params, origins_of(workdir, config) if workdir else config.init_from)
    _table(params)


def _imported(folder: epath.Path) -> None:
    """An import has no steps and no data, and may lack parts of its stage: what it holds, and in which types."""
    config = read_workdir(folder)
    print(f"system {config.system}, imported, with the parts of stage {config.stage}")
    print(f"config {workdir_hash(folder)}")
    stored = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in stored_leaves(folder).items()}
    params = traverse_util.unflatten_dict(stored, sep="/")
    _parts(params, origins_of(folder, config))
    lacking = [part for part in config.fresh if part not in params]
    if lacking:
        print(f"no checkpoint held {', '.join(lacking)}")
    _table(params)


def _parts(params: Any, origins: Mapping[str, str]) -> None:
    for part, leaves in params.items():
        origin = f"from {origins[part]}" if part in origins else "fresh"
        print(f"{part}: {_count(leaves):,} parameters, {origin}")


def _table(params: Any) -> None:
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    print(re.sub(r"(?<=\d)\.0\b", "", table))  # where there are scalars, clu counts in floats


def _count(leaves: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
