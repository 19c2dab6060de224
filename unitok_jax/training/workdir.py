"""What a workdir says of itself: its config, and its parameters without reading them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etils import epath

from unitok_jax.errors import UserError
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import TrainConfig, read_config
from unitok_jax.weights.orbax_stream import StoredLeaf, open_leaves

WORKDIR = "{workdir}"  # in a config's paths, stands for the folder that the config lies in


def read_workdir(workdir: epath.PathLike) -> TrainConfig:
    """The config of a run, or of an import, in its folder.

    Raises:
        UserError: if there is none.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir}: holds no run (no config.json); give the --workdir of a `unitok train`")
    return read_config(_settled(json.loads(path.read_text()), str(workdir)))[0]


def workdir_of(step: epath.PathLike) -> epath.Path:
    """The folder that has the config of a step's directory (``checkpoints/<n>`` below it, or the folder itself)."""
    path = epath.Path(step)
    return path.parent.parent if path.parent.name == "checkpoints" else path


def stored_leaves(place: epath.PathLike) -> dict[str, StoredLeaf]:
    """The parameters of a run's last step by path, none of them read; the moving average where the run kept one.

    Raises:
        UserError: if there is no checkpoint, or it is broken.
    """
    if "://" in str(place):
        raise UserError(f"{place}: is not on this machine; copy the step's directory here first")
    step = find_step(place)
    leaves = open_leaves(Path(step / "params"))
    if (step / "train").exists():
        rest = open_leaves(Path(step / "train"), lambda path: path.startswith("ema/"))
        leaves |= {path.removeprefix("ema/"): leaf for path, leaf in rest.items()}
    return leaves


def parts_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The parts that parameters' paths begin with."""
    return tuple(dict.fromkeys(path.split("/")[0] for path in paths))


def _settled(value: Any, workdir: str) -> Any:
    if isinstance(value, dict):
        return {key: _settled(inner, workdir) for key, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner, workdir) for inner in value]
    return value.replace(WORKDIR, workdir) if isinstance(value, str) else value
