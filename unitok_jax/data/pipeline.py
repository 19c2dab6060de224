"""From a config's sources to one stream of laid-out examples, a function of (seed, position) alone."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from grain.experimental import index_shuffle

from unitok_jax.data import packing, sources
from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow, RowSpec
from unitok_jax.data.settings import Entry, read_entry
from unitok_jax.data.tasks import to_example
from unitok_jax.errors import UserError

LISTED = 1 << 16  # up to here an epoch's order is listed: Grain's cipher takes 33 ms a record for 2 of them
Layout = Callable[[Example, np.random.Generator], ExampleRow]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A bad example, travelling in the place of its row so that whoever reads the stream can count it."""

    reason: str
    detail: str


class NamedRecords:
    """A source whose records carry their mixture entry, a name and the task's field names; bad ones are `Skipped`."""

    def __init__(self, source: sources.RecordSource, entry: Entry):
        self.source, self.entry = source, entry

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> "tuple[Entry, dict[str, Any]] | Skipped":
        try:
            record = dict(self.source[index])
        except BadExample as error:
            return Skipped(error.reason, error.detail)
        return self.entry, self.named(record, index)

    def named(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """A raw record with its name and the task's field names."""
        record.setdefault("id", f"{self.entry.kind}:{index}")
        record.update({ours: record[theirs] for ours, theirs in self.entry.fields.items() if theirs in record})
        return record


class LayOut:
    """Maps (position in the stream, record) to its row; all its randomness comes from (seed, position)."""

    def __init__(self, layout: Layout, spec: RowSpec, codes: bool, seed: int):
        self.layout, self.spec, self.codes, self.seed = layout, spec, codes, seed

    def __call__(self, position: int, item: "tuple[Entry, dict[str, Any]] | Skipped") -> ExampleRow | Skipped:
        if isinstance(item, Skipped):
            return item
        entry, record = item
        rng = np.random.default_rng((self.seed, position))
        try:
            row = self.layout(to_example(entry.task, record, entry.prompts, rng), rng)
            packing.check(row, self.spec, self.codes)
        except BadExample as error:
            return Skipped(error.reason, error.detail or str(record["id"]))
        return row


def open_entries(entries: Sequence[Mapping[str, Any]], where: str) -> list[NamedRecords]:
    """Opens the sources of a config's list.

    Raises:
        UserError: for an empty list, a bad entry, a missing file or a source without records.
    """
    if not entries:
        raise UserError(f"{where}: no source; give at least one, such as {{'kind': 'digits', 'task': 'caption'}}")
    opened = []
    for number, values in enumerate(entries):
        here = f"{where}[{number}]"
        entry = read_entry(dict(values), here)
        source = sources.open_source(entry.kind, entry.options, here)
        if len(source) == 0:
            raise UserError(f"{here}: the {entry.kind} source has no record")
        opened.append(NamedRecords(source, entry))
    return opened


class Epochs:
    """A source without end: every record once an epoch, each epoch in an order of its own, from (seed, epoch).

    ``drawn`` of a record tells (epoch, its number in the source).
    """

    def __init__(self, source: Sequence[Any] | NamedRecords, seed: int):
        self.source, self.seed = source, seed

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> "tuple[Entry, dict[str, Any]] | Skipped":
        epoch, place = divmod(index, len(self.source))
        number = self._shuffled(epoch, place)
        found = self.source[number]
        if isinstance(found, tuple):
            found[1]["drawn"] = epoch, number
        return found

    def _shuffled(self, epoch: int, place: int) -> int:
        size = len(self.source)
        if size <= LISTED:
            return int(_order(size, self.seed, epoch)[place])
        return index_shuffle(place, max_index=size - 1, seed=(self.seed + epoch) % 2**32, rounds=4)


@functools.lru_cache(maxsize=16)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def mixture(records: Sequence[NamedRecords], seed: int) -> grain.MapDataset:
    """An endless stream: each source shuffled anew every epoch, mixed by weight (exactly, not on average)."""
    seeds = np.random.SeedSequence(seed).generate_state(len(records))
    streams = [grain.MapDataset.source(Epochs(source, int(s))) for source, s in zip(records, seeds, strict=True)]
    return grain.MapDataset.mix(streams, [source.entry.weight for source in records])


def in_order(records: Sequence[NamedRecords]) -> grain.MapDataset:
    """Every record once, source after source: a validation set."""
    return grain.MapDataset.concatenate([grain.MapDataset.source(source) for source in records])


def lay_out(stream: grain.MapDataset, layout: Layout, spec: RowSpec, codes: bool, seed: int) -> grain.MapDataset:
    """Maps a stream of records to a stream of `ExampleRow | Skipped`."""
    return stream.map_with_index(LayOut(layout, spec, codes, seed))
