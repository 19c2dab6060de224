"""Metrics: what the step adds up on the device, and the files they end in.

A workdir holds ``metrics/<step>.jsonl`` part files, each named by the step after which it begins and closed at the
next checkpoint, and TensorBoard event files cut the same way. Names under ``time/`` are measured on the clock; all
others are a function of the config, so a resumed run repeats them to the last bit.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from etils import epath
from flax import struct
from jaxtyping import ArrayLike, Float, Num

from unitok_jax.errors import writing
from unitok_jax.systems.base import Aux
from unitok_jax.training.events import EventFile


@struct.dataclass
class Sum(metrics.Metric):
    """Adds up over micro-batches and steps."""

    total: jax.Array

    @classmethod
    def of(cls, values: ArrayLike) -> "Sum":
        """The sum of all elements."""
        return cls(jnp.sum(values, dtype=jnp.float32))

    def merge(self, other: "Sum") -> "Sum":
        return Sum(self.total + other.total)

    def compute(self) -> Float[jax.Array, ""]:
        return self.total


@struct.dataclass
class Largest(metrics.Metric):
    """Keeps the largest value seen."""

    value: jax.Array

    def merge(self, other: "Largest") -> "Largest":
        return Largest(jnp.maximum(self.value, other.value))

    def compute(self) -> Num[jax.Array, ""]:
        return self.value


class Window:
    """Metrics of the steps since the last log, added up on the device and on the host."""

    def __init__(self) -> None:
        self._aux: Aux = {}
        self._host: list[Mapping[str, float]] = []

    def add(self, aux: Aux, host: Mapping[str, float] | None = None) -> None:
        """Adds a step's metrics; of the host's own numbers the mean is told."""
        self._aux = _merge(self._aux, aux) if self._aux else aux
        self._host.append(host or {})

    def flush(self) -> dict[str, float]:
        """Fetches everything from the device in one go, and begins anew."""
        with np.errstate(invalid="ignore", divide="ignore"):  # a mean over skipped steps alone: not a number
            row = {name: np.asarray(metric.compute()).tolist() for name, metric in jax.device_get(self._aux).items()}
        row |= {name: float(np.mean([step[name] for step in self._host])) for name in self._host[0]}
        self._aux, self._host = {}, []
        return row


@jax.jit
def _merge(first: Aux, second: Aux) -> Aux:
    return {name: metric.merge(second[name]) for name, metric in first.items()}


class MetricWriter:
    """Writes metric rows as JSON lines and TensorBoard events.

    Args:
        workdir: a local or bucket path.
        step: the step that the run starts from; whatever an earlier run wrote after it is deleted.
        active: False on all processes but one: these write nothing.
    """

    def __init__(self, workdir: epath.PathLike, step: int, active: bool = True):
        self._workdir, self._active, self._begins = epath.Path(workdir), active, step
        self._lines: Any = None
        self._events: Any = None
        if not active:
            return
        with writing(self._workdir):
            for path in [*self._folder("metrics").iterdir(), *self._folder("tensorboard").iterdir()]:
                if _begins(path) >= step:
                    path.unlink()

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds one row; values that are not finite become null."""
        if not self._active:
            return
        clean = {name: _clean(value) for name, value in row.items()}
        with writing(self._workdir):
            if self._lines is None:
                self._open()
            self._lines.write(json.dumps({"step": step, **clean}) + "\n")
            self._lines.flush()
            self._events.scalars(step, {name: x for name, x in clean.items() if isinstance(x, int | float)})

    def close_part(self, step: int) -> None:
        """Ends the current part files: what follows `step` goes into new ones. Call it before each checkpoint."""
        if self._lines is not None:
            with writing(self._workdir):
                self._lines.close()
                self._events.close()
        self._lines, self._begins = None, step

    def _open(self) -> None:
        name = f"{self._begins:010d}"
        self._lines = (self._folder("metrics") / f"{name}.jsonl").open("w")
        self._events = EventFile((self._folder("tensorboard") / f"events.out.tfevents.{name}").open("wb"))

    def _folder(self, name: str) -> epath.Path:
        folder = self._workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """All rows of a run in order of step; a line torn by a crash is left out."""
    rows = []
    folder = epath.Path(workdir) / "metrics"
    parts = [path for path in folder.iterdir() if path.suffix == ".jsonl"] if folder.exists() else []
    for path in sorted(parts, key=_begins):
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _begins(path: epath.Path) -> int:
    """The step in a part file's name: ``0000000100.jsonl``, ``events.out.tfevents.0000000100``."""
    digits = path.name.removesuffix(".jsonl").rsplit(".", 1)[-1]
    return int(digits) if digits.isdigit() else -1


def _clean(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
