"""Batches on their way to the devices, and the state of their streams."""

import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from unitok_jax.data.batches import Batches, train_batches, validation_batches
from unitok_jax.data.example import REASONS
from unitok_jax.data.lengths import Measure
from unitok_jax.parallel.distributed import from_global, local_rows, to_global
from unitok_jax.parallel.mesh import batch_sharding
from unitok_jax.systems.base import Batch, Stage
from unitok_jax.training.config import TrainConfig


class Feed:
    """Makes the global batches of a run; every process reads its own rows of them.

    Args:
        config: the recipe.
        stage: lays the examples out.
        mesh: rows lie over its batch axes.
    """

    def __init__(self, config: TrainConfig, stage: Stage, mesh: Mesh):
        self._settings, self._stage = config.data_settings, stage
        self._sharding, self._size = batch_sharding(mesh), config.batch_size
        self._rows = local_rows(self._sharding, self._size)
        self._common: dict[str, Any] = {"batch_size": self._size, "seed": config.seed, "rows": self._rows}
        model = json.dumps([config.system, config.model], sort_keys=True, default=str)
        self._measure = Measure(stage.measure, model) if stage.measure else None
        self._batches: Batches | None = None

    def start(self, state: dict[str, jax.Array] | None = None) -> None:
        """Opens the training stream, at the beginning or where `state` left it."""
        where = {name: from_global(value).astype(np.int64) for name, value in (state or {}).items()}
        self._batches = train_batches(
            self._settings, self._stage.spec, self._stage.layout, measure=self._measure, **self._common, **where
        )

    def next(self) -> tuple[Batch, dict[str, float]]:
        """The next training batch, and what is logged of it: padding's share of its room, and bad examples so far."""
        batch, info = next(self._begun)
        notes = {f"unused/{name}": share for name, share in info.unused.items()}
        return self._put(batch), notes | {"bad_examples": float(info.skipped.sum())}

    def validation(self, name: str) -> Iterator[Batch]:
        """Every example of a validation set, once."""
        spec, layout = self._stage.spec, self._stage.layout
        batches = validation_batches(self._settings, name, spec, layout, **self._common)
        for batch, _ in batches:
            yield self._put(batch)
        _agree(batches)

    def check(self) -> None:
        """Sees whether too many of the training examples were bad; all processes call it at the same steps.

        Raises:
            UserError: on all of them, if so.
        """
        _agree(self._begun)

    @property
    def validation_names(self) -> tuple[str, ...]:
        """The validation sets."""
        return tuple(self._settings.validation)

    @property
    def state(self) -> dict[str, jax.Array]:
        """Where the rows' streams stand after the last batch, as global arrays.

        int32 is enough: a row reads far less than 2**31 examples.
        """
        state = {"cursors": self._begun.cursors, "skipped": self._begun.skipped}
        return self._put({name: value.astype(np.int32) for name, value in state.items()})

    @property
    def abstract_state(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and shardings of `state`."""
        shapes = {"cursors": (self._size,), "skipped": (self._size, len(REASONS))}
        return {n: jax.ShapeDtypeStruct(shape, np.int32, sharding=self._sharding) for n, shape in shapes.items()}

    def close(self) -> None:
        """Ends the reading processes."""
        if self._batches is not None:
            self._batches.close()

    @property
    def _begun(self) -> Batches:
        if self._batches is None:
            raise RuntimeError("the training stream is not open; call start first")
        return self._batches

    def _put(self, batch: Any) -> Any:
        return to_global(batch, self._sharding, self._size, self._rows)


def _agree(batches: Batches) -> None:
    """Judges the bad examples of all processes, so that none stops while the others wait for it."""
    tallies = multihost_utils.process_allgather(batches.tally.astype(np.int32))
    batches.refuse_too_many_bad(tallies.astype(np.int64).sum(0))
