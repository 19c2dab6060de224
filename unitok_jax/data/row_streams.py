"""The rows of a batch, each packed by a stream of its own.

Row r of B reads, at its turn k, one element of block k of the one global stream: element ``k * B + (r + shift_k) % B``,
so every element is read once and any set of processes makes the same global batches. The shift, drawn from (seed, k),
keeps a row from meeting the same source at every turn (mixtures repeat with a period), which under packing would let
rows of short examples draw more than their weight. A stream's whole state is its cursor k.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from jaxtyping import Int64

from unitok_jax.data import packing
from unitok_jax.data.example import REASONS
from unitok_jax.data.pipeline import Skipped
from unitok_jax.data.rows import ExampleRow, RowSpec

HOPELESS = 100  # bad elements in a row after which an endless stream gives up


@dataclasses.dataclass(frozen=True)
class Shape:
    """What every row stream of a run shares.

    Attributes:
        spec: the static shape of a row.
        codes: pictures of the code view come as codes.
        batch: rows of the global batch.
        seed: shifts the rows' turns; None reads in order, once (a finite set).
        specs: the shape of a turn's rows where every turn reads one element a row, bad or not, and its batch is
            exactly one block of the stream; None where rows walk on by themselves.
    """

    spec: RowSpec
    codes: bool
    batch: int
    seed: int | None
    specs: Callable[[int], RowSpec] | None = None


class RowStream:
    """One row's walk over the global stream of `ExampleRow | Skipped`."""

    def __init__(
        self, elements: grain.MapDataset, shape: Shape, row: int, cursor: int, skipped: Int64[np.ndarray, " reasons"]
    ):
        self.cursor, self.skipped = cursor, np.array(skipped, np.int64)
        self.bad: list[str] = []  # said of the elements skipped since this was last emptied
        self._elements, self._shape, self._row = elements, shape, row
        self._waiting: ExampleRow | None = None  # read, but it opens the next line: the cursor still stands before it
        self.hopeless = False

    def next_line(self) -> list[ExampleRow]:
        """The rows of the next line; empty at the end of a finite set, or when the stream is hopeless."""
        if self._shape.specs is not None:
            return self._one_element(self._shape.specs(self.cursor))
        line = packing.Line(self._shape.spec, self._shape.codes)
        while (row := self._waiting or self._read()) is not None:
            if not line.fits(row):
                self._waiting = row
                break
            line.add(row)
            self._waiting = None
            self.cursor += 1
            if not self._shape.spec.pack:
                break
        return line.rows

    def _one_element(self, spec: RowSpec) -> list[ExampleRow]:
        element = self._elements[self._index()]
        if isinstance(element, ExampleRow) and len(element.tokens) > spec.length:
            detail = f"{len(element.tokens)} positions, room for {spec.length} by the recorded lengths of its batch"
            element = Skipped("longer than the row", detail)
        self.cursor += 1
        if isinstance(element, Skipped):
            self._skip(element)
        return [element] if isinstance(element, ExampleRow) else []

    def _skip(self, element: Skipped) -> None:
        self.skipped[REASONS.index(element.reason) if element.reason in REASONS else -1] += 1
        self.bad.append(f"{element.reason}: {element.detail}")

    def _read(self) -> ExampleRow | None:
        first = self.cursor
        while (index := self._index()) < len(self._elements):
            element = self._elements[index]
            if not isinstance(element, Skipped):
                return element
            self.cursor += 1
            self._skip(element)
            if self._shape.seed is not None and self.cursor - first >= HOPELESS:
                self.hopeless = True
                return None
        return None

    def _index(self) -> int:
        seed, size = self._shape.seed, self._shape.batch
        shift = 0 if seed is None else int(np.random.default_rng((seed, size, self.cursor)).integers(size))
        return self.cursor * size + (self._row + shift) % size


class RowStreams(grain.IterDataset):
    """Packed rows, all of `rows` at once, as ``{batch, cursors, skipped, bad, hopeless}``.

    ``cursors`` int64 [rows] and ``skipped`` int64 [rows, reasons] are the streams' state after the element, ``bad``
    says what was skipped for it, and ``hopeless`` that some row found nothing but bad examples.
    """

    def __init__(
        self,
        elements: grain.MapDataset,
        shape: Shape,
        rows: tuple[int, ...],
        cursors: Int64[np.ndarray, " rows"],
        skipped: Int64[np.ndarray, "rows reasons"],
    ):
        super().__init__()
        self.elements, self.shape, self.rows = elements, shape, rows
        self.cursors, self.skipped = cursors, skipped

    def __iter__(self) -> "RowStreamsIterator":
        return RowStreamsIterator(self)


class RowStreamsIterator(grain.DatasetIterator):
    """See `RowStreams`."""

    def __init__(self, parent: RowStreams):
        super().__init__()
        self._streams_of = parent
        self.set_state({"cursors": parent.cursors, "skipped": parent.skipped})

    def __next__(self) -> dict[str, Any]:
        shape = self._streams_of.shape
        spec = shape.spec if shape.specs is None else shape.specs(self._streams[0].cursor)
        lines = [stream.next_line() for stream in self._streams]
        batch = packing.pack(lines, spec, shape.codes)
        bad = [text for stream in self._streams for text in stream.bad]
        for stream in self._streams:
            stream.bad.clear()
        hopeless = any(stream.hopeless for stream in self._streams)
        return {"batch": batch, "bad": bad, "hopeless": hopeless, **self.get_state()}

    def get_state(self) -> dict[str, np.ndarray]:
        return {
            "cursors": np.array([stream.cursor for stream in self._streams], np.int64),
            "skipped": np.stack([stream.skipped for stream in self._streams]),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        elements, shape, rows = self._streams_of.elements, self._streams_of.shape, self._streams_of.rows
        states = zip(rows, state["cursors"], state["skipped"], strict=True)
        self._streams = [RowStream(elements, shape, row, int(cursor), skipped) for row, cursor, skipped in states]
