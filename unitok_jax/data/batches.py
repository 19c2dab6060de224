"""Batches for the rows that one process provides, and the exact state of their streams."""

import dataclasses
import logging
import math
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Int64

from unitok_jax.data import packing, pipeline
from unitok_jax.data.bad_share import by_reason, refuse_too_many_bad
from unitok_jax.data.clustered import Buckets, ClusteredEpochs
from unitok_jax.data.example import REASONS
from unitok_jax.data.lengths import Measure, record_lengths
from unitok_jax.data.packing import HostBatch
from unitok_jax.data.pipeline import Layout
from unitok_jax.data.row_streams import RowStreams, RowStreamsIterator, Shape
from unitok_jax.data.rows import RowSpec
from unitok_jax.data.settings import DataSettings
from unitok_jax.errors import UserError

log = logging.getLogger(__name__)
NAMED = 3  # bad examples of each reason that the log names


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What is known of a batch on the host.

    Attributes:
        cursors: int64 [rows], the streams' state after this batch.
        skipped: int64 [rows, reasons], bad examples so far, columns as `REASONS`; carried over restarts with `cursors`.
        unused: the share of room that padding took; see `packing.unused`.
    """

    cursors: Int64[np.ndarray, " rows"]
    skipped: Int64[np.ndarray, "rows reasons"]
    unused: dict[str, float]


class Batches(Iterator[tuple[HostBatch, BatchInfo]]):
    """Iterator over ``(batch, info)``; made by `train_batches` or `validation_batches`.

    Attributes:
        cursors, skipped: the state after the batch handed out last; give both back to continue exactly there.
        count: how many batches there are; None for an endless stream.
    """

    def __init__(
        self,
        parts: Sequence[grain.DatasetIterator],
        cursors: Int64[np.ndarray, " rows"],
        skipped: Int64[np.ndarray, "rows reasons"],
        max_bad_share: float,
        count: int | None,
        spec: RowSpec,
        alone: bool,
    ):
        self.cursors, self.skipped, self.count = cursors, skipped, count
        self._parts, self._max_bad_share, self._made = list(parts), max_bad_share, 0
        self._spec, self._alone = spec, alone
        self._start, self._hopeless = self._read(), False
        self._named: Counter[str] = Counter()
        self._close = weakref.finalize(self, _close, self._parts)  # at exit too, while Grain's modules still exist

    def __next__(self) -> tuple[HostBatch, BatchInfo]:
        if self._made == self.count:
            self.close()
            raise StopIteration
        parts = [next(part) for part in self._parts]
        self._made += 1
        self._name_bad(parts)
        self.cursors, self.skipped = (np.concatenate([part[key] for part in parts]) for key in ("cursors", "skipped"))
        self._hopeless |= any(part["hopeless"] for part in parts)
        if self._alone:
            self.refuse_too_many_bad(self.tally)
        batch = _concatenate([part["batch"] for part in parts])
        return batch, BatchInfo(self.cursors, self.skipped, packing.unused(batch, self._spec))

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._close()

    def _name_bad(self, parts: Sequence[dict[str, Any]]) -> None:
        for text in (text for part in parts for text in part["bad"]):
            reason = text.partition(":")[0]
            self._named[reason] += 1
            if self._named[reason] <= NAMED:
                log.warning("skipped an example: %s", text)

    @property
    def tally(self) -> Int64[np.ndarray, " n"]:
        """What was read since the start: examples, 1 if a row finds none that is good, bad ones as `REASONS`."""
        read, *skipped = self._read() - self._start
        return np.array([read, self._hopeless, *skipped], np.int64)

    def refuse_too_many_bad(self, tally: Int64[np.ndarray, " n"]) -> None:
        """Judges a tally. Where other processes read other rows, all judge the sum of theirs, and stop together.

        Raises:
            UserError: if more than `max_bad_share` are bad.
        """
        read, hopeless, *skipped = tally.tolist()
        try:
            bad = by_reason(np.array(skipped, np.int64))
            refuse_too_many_bad(read, bad, self._max_bad_share, "max_bad_share", "config.data", bool(hopeless))
        except UserError:
            self.close()
            raise

    def _read(self) -> np.ndarray:
        return np.array([self.cursors.sum(), *self.skipped.sum(0)])


def _close(parts: list[grain.DatasetIterator]) -> None:
    for part in parts:
        part.close()
    parts.clear()


def train_batches(
    settings: DataSettings,
    spec: RowSpec,
    layout: Layout,
    *,
    batch_size: int,
    seed: int,
    measure: Measure | None = None,
    rows: Sequence[int] | None = None,
    cursors: Int64[np.ndarray, " rows"] | None = None,
    skipped: Int64[np.ndarray, "rows reasons"] | None = None,
) -> Batches:
    """The endless stream of `settings.train`, in the order `settings.order`.

    Args:
        settings: `config.data`.
        spec, layout: the stage's.
        batch_size: rows of the global batch, B.
        seed: of order, prompts and augmentation.
        measure: finds the lengths by which order ``clustered`` sorts, of records that do not tell them.
        rows: global rows that this process provides, in the order of its batch; all by default.
        cursors, skipped: the state of these rows to continue from; the beginning by default.

    Raises:
        UserError: for a bad config or missing files; later, for too many bad examples, unless other processes read
            other rows (see `Batches.refuse_too_many_bad`).
    """
    records = pipeline.open_entries(settings.train, "config.data.train")
    if settings.order == "shuffled":
        elements, specs = pipeline.mixture(records, seed), None
    elif spec.pack:
        raise UserError(f"config.data.order: {settings.order!r} puts one example in a row, but the stage packs several")
    else:
        epochs, specs = _epochs(records, settings, spec, measure, batch_size, seed)
        elements = grain.MapDataset.source(epochs)
    stream = pipeline.lay_out(elements, layout, spec, settings.codes, seed)
    shape = Shape(spec, settings.codes, batch_size, seed, specs)
    return _batches(stream, shape, settings, rows, cursors, skipped, None)


def _epochs(
    records: Sequence[pipeline.NamedRecords],
    settings: DataSettings,
    spec: RowSpec,
    measure: Measure | None,
    batch_size: int,
    seed: int,
) -> tuple[ClusteredEpochs, Buckets]:
    """The stream of order ``grouped`` or ``clustered``, and the shape of each turn's rows."""
    lengths = None
    if settings.order == "clustered":
        places = [f"config.data.train[{i}]" for i in range(len(records))]
        lengths = [record_lengths(r, place, measure, settings.index) for r, place in zip(records, places, strict=True)]
    epochs = ClusteredEpochs(records, seed, batch_size, lengths)
    return epochs, Buckets(epochs, spec)


def validation_batches(
    settings: DataSettings,
    name: str,
    spec: RowSpec,
    layout: Layout,
    *,
    batch_size: int,
    seed: int,
    rows: Sequence[int] | None = None,
) -> Batches:
    """Every example of `settings.validation[name]` once, in order, one a row; the end is filled with padding rows.

    One example a row, so that every process knows the number of batches without reading the others' rows.
    """
    records = pipeline.open_entries(settings.validation[name], f"config.data.validation.{name}")
    spec = dataclasses.replace(spec, pack=False)
    stream = pipeline.lay_out(pipeline.in_order(records), layout, spec, settings.codes, seed)
    shape = Shape(spec, settings.codes, batch_size, None)
    return _batches(stream, shape, settings, rows, None, None, math.ceil(len(stream) / batch_size))


def _batches(
    stream: grain.MapDataset,
    shape: Shape,
    settings: DataSettings,
    rows: Sequence[int] | None,
    cursors: np.ndarray | None,
    skipped: np.ndarray | None,
    count: int | None,
) -> Batches:
    mine = np.arange(shape.batch) if rows is None else np.asarray(rows, np.int64)
    cursors = np.zeros(len(mine), np.int64) if cursors is None else np.asarray(cursors, np.int64)
    skipped = np.zeros((len(mine), len(REASONS)), np.int64) if skipped is None else np.asarray(skipped, np.int64)
    pieces = np.array_split(np.arange(len(mine)), max(1, min(settings.workers, len(mine))))
    parts = []
    for piece in pieces:
        streams = RowStreams(stream, shape, tuple(mine[piece].tolist()), cursors[piece], skipped[piece])
        parts.append(_prefetched(streams, settings))
    for part in parts:
        part.start_prefetch()
    alone = len(np.unique(mine)) == shape.batch
    return Batches(parts, cursors, skipped, settings.max_bad_share, count, shape.spec, alone)


def _prefetched(streams: RowStreams, settings: DataSettings) -> grain.DatasetIterator:
    if settings.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read its flags
        buffered = max(1, settings.prefetch)
        return iter(streams.mp_prefetch(grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=buffered)))
    inline = RowStreamsIterator(streams)  # not iter(streams), around which Grain would put a thread
    return grain.experimental.ThreadPrefetchDatasetIterator(inline, settings.prefetch) if settings.prefetch else inline


def _concatenate(parts: Sequence[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {key: _concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)
