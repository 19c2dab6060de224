"""What a workdir says of itself: its config, and its parameters without reading them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from unitok_jax.config import config_hash
from unitok_jax.data.files import write_whole
from unitok_jax.errors import UserError, writing
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import ORIGINS, TrainConfig, read_config
from unitok_jax.weights.orbax_stream import StoredLeaf, open_leaves

WORKDIR = "{workdir}"  # in a config's paths, stands for the folder that the config lies in
STEP_CONFIG = "config/metadata"  # where Orbax keeps the JSON item `config` of a step


def read_workdir(workdir: epath.PathLike) -> TrainConfig:
    """The config of a run, of an import, or of one step's directory (which keeps its own, so that it may be moved).

    Raises:
        UserError: if there is none, or it is broken.
    """
    return read_config(_settled(_plain(workdir), str(workdir)))[0]


def workdir_hash(workdir: epath.PathLike) -> str:
    """The hash of a run's config, the same as its recipe's (`unitok inspect RECIPE`); see `read_workdir`."""
    return config_hash(_plain(workdir))


def _plain(workdir: epath.PathLike) -> dict[str, Any]:
    root = epath.Path(workdir)
    path = next((path for path in (root / "config.json", root / STEP_CONFIG) if path.exists()), None)
    if path is None:
        raise UserError(f"{workdir}: holds no run (no config.json); give the --workdir of a `unitok train`")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); copy it again") from None


def workdir_of(step: epath.PathLike) -> epath.Path:
    """The folder that has the config of a step's directory: its run's if it lies in one, else itself."""
    path = epath.Path(step)
    run = path.parent.parent
    return run if path.parent.name == "checkpoints" and (run / "config.json").exists() else path


def record_origins(workdir: epath.PathLike, origins: Mapping[str, str]) -> None:
    """Keeps from which commits a run's published checkpoints came, by part.

    Raises:
        UserError: if it cannot be written.
    """
    path = epath.Path(workdir) / ORIGINS
    if origins or path.exists():  # a start that failed may have left it
        with writing(workdir):
            write_whole(path, json.dumps(dict(origins), indent=1, sort_keys=True).encode())


def origins_of(workdir: epath.PathLike, config: TrainConfig) -> dict[str, str]:
    """Where each part of a run began, by part: `config.init_from`, with the commits that were recorded."""
    path = epath.Path(workdir) / ORIGINS
    return {**config.init_from, **(json.loads(path.read_text()) if path.exists() else {})}


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


def step_number(step: epath.PathLike) -> int | None:
    """The step that a step's directory holds, whatever its name; None for an import, which was not trained."""
    folder = epath.Path(step) / "train"
    if not folder.exists():
        return None
    return int(np.asarray(open_leaves(Path(folder), lambda path: path == "step")["step"]))


def parts_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The parts that parameters' paths begin with."""
    return tuple(dict.fromkeys(path.split("/")[0] for path in paths))


def _settled(value: Any, workdir: str) -> Any:
    if isinstance(value, dict):
        return {key: _settled(inner, workdir) for key, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner, workdir) for inner in value]
    return value.replace(WORKDIR, workdir) if isinstance(value, str) else value
