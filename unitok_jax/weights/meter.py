"""How far long reading and writing has come: bytes, rate and time left."""

import sys
import time
from collections.abc import Iterable
from typing import TextIO

import numpy as np

from unitok_jax.weights.source import AnyArray, Source

QUIET = 10.0  # seconds between two lines where they are kept (a log); on a terminal one line is written over
LIVELY = 0.2


class Meter:
    """Tells what part of a number of bytes is done. Work that ends within seconds is not told of.

    Args:
        does: such as ``importing``.
        total: bytes.
        out: where the line goes.
    """

    def __init__(self, does: str, total: int, out: TextIO | None = None):
        self._does, self._total, self._out = does, max(total, 1), out or sys.stderr
        self._live = self._out.isatty()
        self._done, self._start = 0, time.monotonic()
        self._told = self._start
        self._wrote = False

    def add(self, size: int) -> None:
        """Counts `size` more bytes."""
        self._done = min(self._done + size, self._total)
        now = time.monotonic()
        if now - self._told >= (LIVELY if self._live else QUIET):
            self._told = now
            self._write(self._line(now - self._start))

    def close(self) -> None:
        """Ends the line."""
        if self._live and self._wrote:
            print(file=self._out, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / max(seconds, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        done = f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        return f"{self._does} {done}  {rate / 1e6:.0f} MB/s  ETA {int(left) // 60}:{int(left) % 60:02d}"

    def _write(self, line: str) -> None:
        self._wrote = True
        print(f"\r{line:<70}" if self._live else line, end="" if self._live else "\n", file=self._out, flush=True)


class Metered:
    """A source that tells a meter of every tensor read."""

    def __init__(self, source: Source, meter: Meter):
        self._source, self._meter = source, meter

    def keys(self) -> Iterable[str]:
        return self._source.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._source.shape(key)

    def dtype(self, key: str) -> np.dtype:
        return self._source.dtype(key)

    def read(self, key: str) -> AnyArray:
        tensor = self._source.read(key)
        self._meter.add(tensor.nbytes)
        return tensor
