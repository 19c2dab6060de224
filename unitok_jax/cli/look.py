"""`unitok inspect`."""

import argparse
import math
import re
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from unitok_jax.cli.models import abstract_params
from unitok_jax.config import config_hash, load_config
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import TrainConfig, read_config
from unitok_jax.training.workdir import STEP_CONFIG, origins_of, read_workdir, workdir_of
from unitok_jax.weights.containers import open_source


def inspect(args: argparse.Namespace) -> None:
    """Prints what a recipe, a workdir or a checkpoint holds."""
    path = epath.Path(args.path)
    if args.path.partition(":")[0].endswith(".py"):
        config = load_config(args.path)
        _recipe(read_config(config)[0], [f"config {config_hash(config)}"])
    elif (path / "checkpoints").exists():
        _recipe(read_workdir(path), [f"last step {find_step(path).name}"], path)
    elif (path / "params").exists() and (path / "config.json").exists():
        _recipe(read_workdir(path), ["imported"], path)
    elif (path / "params").exists() and (path / STEP_CONFIG).exists():
        _recipe(read_workdir(path), ["one step of a run"], workdir_of(path))
    else:
        source = open_source(args.path)
        _table({key: jax.ShapeDtypeStruct(source.shape(key), source.dtype(key)) for key in source.keys()})  # noqa: SIM118


def _recipe(config: TrainConfig, lines: list[str], workdir: epath.Path | None = None) -> None:
    print(f"system {config.system}, stage {config.stage}, {config.steps} steps of {config.batch_size} rows")
    for line in lines:
        print(line)
    params, origins = abstract_params(config), origins_of(workdir, config) if workdir else config.init_from
    for part, leaves in params.items():
        origin = f"from {origins[part]}" if part in origins else "fresh"
        print(f"{part}: {_count(leaves):,} parameters, {origin}")
    _table(params)


def _table(params: Any) -> None:
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    print(re.sub(r"(?<=\d)\.0\b", "", table))  # where there are scalars, clu counts in floats


def _count(leaves: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
