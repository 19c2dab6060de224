"""The keys of a recipe, and which of them may change between two runs of one workdir."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from unitok_jax.data.settings import DataSettings
from unitok_jax.errors import UserError, writing
from unitok_jax.parallel.mesh import MeshSettings
from unitok_jax.settings import from_config

CONFIG, ORIGINS = "config.json", "origins.json"  # in a workdir: the config; from which commits the parts came
SHOWN = 100  # characters of a value in a message
MAY_CHANGE = (
    *("steps", "log_every", "checkpoint_every", "keep", "eval_every", "sample_every", "max_nonfinite", "mesh"),
    *("data.workers", "data.prefetch", "data.max_bad_share", "samples", "inference", "evaluation"),
)


@dataclasses.dataclass(frozen=True)
class EmaSettings:
    """`config.ema`: the moving average of the trained parameters."""

    decay: float


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A recipe (`config`).

    Attributes:
        system, model: the system's name and its settings.
        stage, stage_options: the stage's name and its settings.
        data: `DataSettings`, and ``batch_size``, the rows of the global batch.
        steps: length of the run.
        optimizer, optimizers: `OptimizerSettings`, and what single phases set anew.
        seed: of everything random.
        accumulate: micro-batches a step.
        ema: moving average, or None.
        compute_dtype: of frozen parameters.
        max_nonfinite: stop once so many steps in a row were skipped.
        init_from: part -> workdir, step directory or exported folder to load it from, or a published file; with ``#``
            and another part's name behind it, from that part (a frozen teacher from ``runs/tower#vit``).
        start: part -> ``{"name": ..., options}``, how a part is made of what `init_from` names where these are not its
            own weights: a name in the system's ``starts``.
        fresh: parts that start random; every part is named here or in `init_from`.
        mesh: devices along each axis.
        log_every, checkpoint_every, eval_every, sample_every: cadences in steps; the last two may be 0, never.
        keep: checkpoints to keep.
        samples, inference, evaluation: settings of the sample sheets, of the model in use and of `unitok evaluate`,
            which read them.
    """

    system: str
    stage: str
    steps: int
    data: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stage_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    seed: int = 0
    accumulate: int = 1
    ema: EmaSettings | None = None
    compute_dtype: str = "float32"
    max_nonfinite: int = 10
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    start: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    log_every: int = 50
    checkpoint_every: int = 1000
    eval_every: int = 0
    sample_every: int = 0
    keep: int = 2
    samples: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inference: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        if "batch_size" not in self.data:
            raise UserError("config.data.batch_size: missing; give the rows of the global batch")
        return int(self.data["batch_size"])

    @property
    def data_settings(self) -> DataSettings:
        """`config.data` without the batch size."""
        values = {key: value for key, value in self.data.items() if key != "batch_size"}
        return from_config(DataSettings, values, "config.data")


def read_config(config: Mapping[str, Any] | ConfigDict) -> tuple[TrainConfig, dict[str, Any]]:
    """Reads a recipe: a `ConfigDict` or a mapping.

    Returns:
        The typed config, and the same as plain JSON, for the workdir.

    Raises:
        UserError: for an unknown or missing key, or a value of the wrong type or range.
    """
    plain = json.loads(json.dumps(config.to_dict() if isinstance(config, ConfigDict) else dict(config)))
    typed = from_config(TrainConfig, plain, "config")
    for name in ("steps", "accumulate", "max_nonfinite", "log_every", "checkpoint_every", "keep"):
        if getattr(typed, name) < 1:
            raise UserError(f"config.{name}: expected 1 or more, got {getattr(typed, name)}")
    if typed.compute_dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.compute_dtype: expected float32 or bfloat16, got {typed.compute_dtype!r}")
    return typed, plain


def claim_workdir(workdir: epath.Path, plain: Mapping[str, Any], write: bool = True) -> None:
    """Makes the workdir this config's own, or sees that it is.

    Args:
        workdir: made if it does not exist.
        plain: the config as plain JSON.
        write: False on all processes but one.

    Raises:
        UserError: if the workdir holds a run of another config, or cannot be written.
    """
    path = workdir / CONFIG
    if path.exists() and _began(workdir):
        found = first_difference(json.loads(path.read_text()), plain)
        if found:
            name, old, new = found
            raise UserError(
                f"{workdir} holds a run with config.{name} = {old}, not {new}: take another workdir, or the old value"
            )
    if write:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            draft = workdir / f"{CONFIG}.tmp"
            draft.write_text(json.dumps(plain, indent=1, sort_keys=True))
            draft.replace(path)


def _began(workdir: epath.Path) -> bool:
    """Whether there is more than a start that failed leaves: the config, where parts came from, empty folders."""
    rest = [path for path in workdir.iterdir() if path.name not in (CONFIG, ORIGINS)]
    return any(not path.is_dir() or any(path.iterdir()) for path in rest)


def first_difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first key, in order of name, at which two configs differ, with both values, cut where they are long; None if
    they are the same run."""
    if name in MAY_CHANGE:
        return None
    if _are_entries(old) and _are_entries(new) and len(old) == len(new):
        old, new = ({f"[{i}]": entry for i, entry in enumerate(side)} for side in (old, new))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return None if old == new else (name, _shown(old), _shown(new))
    for key in sorted({*old, *new}):
        inner = f"{name}{key}" if key.startswith("[") else f"{name}.{key}" if name else key
        if inner in MAY_CHANGE:
            continue
        if key not in old or key not in new:
            before, after = (_shown(side[key]) if key in side else "unset" for side in (old, new))
            return inner, before, after
        if found := first_difference(old[key], new[key], inner):
            return found
    return None


def _are_entries(value: Any) -> bool:
    """Whether it is a list of mappings, such as that of the sources."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
