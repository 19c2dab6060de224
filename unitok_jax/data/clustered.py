"""Epochs whose batches hold examples of one group, and of similar length, as UniToken's released sampler makes them.

The order is that of the release for the same seed: numpy's generator, asked for the same things in the same sequence
(upstream ``xllmx/data/sampler.py``).
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from unitok_jax.data.pipeline import NamedRecords, Skipped
from unitok_jax.data.rows import RowSpec
from unitok_jax.data.settings import Entry
from unitok_jax.errors import UserError

WINDOW = 500  # batches within which lengths are shuffled


@dataclasses.dataclass(frozen=True)
class Collection:
    """What the order needs to know of one source.

    Attributes:
        lengths: recorded length of each record.
        ratio: the share of them that an epoch draws, without replacement; 1 takes all.
        group: batches hold one group each.
    """

    lengths: Int[np.ndarray, " n"]
    ratio: float = 1.0
    group: str = "default"


def epoch_order(
    collections: Sequence[Collection], seed: int, batch: int, accumulate: int = 1, cluster: bool = True
) -> Int[np.ndarray, " n"]:
    """The records of one epoch in order, `batch` after `batch`; what fills no whole step of a group is left out.

    Args:
        collections: the sources; records are numbered through all of them.
        seed: of this epoch.
        batch: examples of a batch.
        accumulate: batches of a step, all of one group.
        cluster: whether a batch's examples are near in length.
    """
    rng, batches = np.random.default_rng(seed), []
    for records, lengths in _groups(collections, rng, batch * accumulate):
        if cluster:
            records = records[np.argsort(lengths, kind="stable")]
        batches.append((records, WINDOW * batch if cluster else max(len(records), 1)))
    shuffled = [_shuffle_within(records, window, rng) for records, window in batches]
    steps = [step for records in shuffled for step in _steps(records.reshape(-1, batch), accumulate, rng)]
    return np.concatenate([steps[i] for i in _shuffled(len(steps), rng)]) if steps else np.zeros(0, np.int64)


def _groups(
    collections: Sequence[Collection], rng: np.random.Generator, unit: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(records, lengths) of each group, cut to whole steps."""
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    start = 0
    for collection in collections:
        size = len(collection.lengths)
        picked = np.arange(size)
        if collection.ratio != 1.0:
            picked = rng.choice(size, int(size * collection.ratio), replace=False)
        groups.setdefault(collection.group, []).append((start + picked, collection.lengths[picked]))
        start += size
    whole = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in groups.values()]
    return [
        (records[: len(records) // unit * unit], lengths[: len(records) // unit * unit]) for records, lengths in whole
    ]


def _shuffle_within(records: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    parts = [records[i : i + window] for i in range(0, len(records), window)]
    return np.concatenate([part[_shuffled(len(part), rng)] for part in parts]) if parts else records


def _steps(batches: np.ndarray, accumulate: int, rng: np.random.Generator) -> list[np.ndarray]:
    shuffled = batches[_shuffled(len(batches), rng)]
    return [shuffled[i : i + accumulate].ravel() for i in range(0, len(shuffled), accumulate)]


def _shuffled(count: int, rng: np.random.Generator) -> np.ndarray:
    order = np.arange(count)
    rng.shuffle(order)
    return order


class ClusteredEpochs:
    """Endless epochs in `epoch_order`, as a random-access stream of records.

    Args:
        records: the sources, whose entries name groups and ratios.
        seed: of the first epoch; the next ones count on.
        batch: rows of the global batch.
        lengths: of each source's records; None where they do not count (order ``grouped``).

    Raises:
        UserError: for too few records for one batch.
    """

    def __init__(
        self,
        records: Sequence[NamedRecords],
        seed: int,
        batch: int,
        lengths: Sequence[Int64[np.ndarray, "_"]] | None = None,
    ):
        self._records, self._seed, self._batch, self.clusters = records, seed, batch, lengths is not None
        lengths = [np.zeros(len(source), np.int64) for source in records] if lengths is None else lengths
        self._collections = tuple(
            Collection(numbers, source.entry.ratio, source.entry.group)
            for numbers, source in zip(lengths, records, strict=True)
        )
        self._lengths = np.concatenate([collection.lengths for collection in self._collections])
        self._starts = np.cumsum([0, *(len(source) for source in records)])
        self._order = functools.lru_cache(maxsize=2)(self._make_order)
        if not len(self._order(0)):
            raise UserError(f"config.data: no group has {batch} records, which one batch needs; lower batch_size")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[Entry, dict[str, Any]] | Skipped:
        epoch, place = divmod(index, len(self._order(0)))
        record = int(self._order(epoch)[place])
        source = int(np.searchsorted(self._starts, record, side="right")) - 1
        return self._records[source][record - int(self._starts[source])]

    def longest(self, turn: int) -> int:
        """The greatest recorded length in the global batch of a turn."""
        epoch, place = divmod(turn * self._batch, len(self._order(0)))
        return int(self._lengths[self._order(epoch)[place : place + self._batch]].max())

    def _make_order(self, epoch: int) -> np.ndarray:
        return epoch_order(self._collections, self._seed + epoch, self._batch, cluster=self.clusters)


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Which length a turn's rows have: the least listed that holds its longest example, else the longest.

    Attributes:
        epochs: the stream.
        spec: of the stage.
    """

    epochs: ClusteredEpochs
    spec: RowSpec

    def __call__(self, turn: int) -> RowSpec:
        if not self.epochs.clusters:
            return self.spec
        needed = self.epochs.longest(turn) + self.spec.added
        length = next((length for length in sorted(self.spec.lengths) if length >= needed), self.spec.length)
        return dataclasses.replace(self.spec, length=length)
