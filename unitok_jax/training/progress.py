"""The clock of a run: rates, ETA, the share of time that the device waited for input."""

import contextlib
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Protocol, TextIO

COLLAPSED = 0.05  # of a codebook's spread: below it the run says that the codebook is collapsing


class Pending(Protocol):
    """What a device computes; an array of JAX, whose stub lacks the method."""

    def is_ready(self) -> bool:
        """Whether it is done."""


class Progress:
    """Measures the steps between two logs, and tells them in one line.

    Args:
        name: of the run, before each line: runs may share a terminal.
        steps: where it ends.
        phases: names of the phases, whose losses are told.
        out: where the line goes.
        ideal: seconds that a step's FLOPs take at the peak of all chips; MFU is the share of the time that this is.
            None where it is not known.
    """

    def __init__(
        self, name: str, steps: int, phases: Sequence[str], out: TextIO | None = None, ideal: float | None = None
    ):
        self._name, self._steps, self._phases, self._out = name, steps, phases, out or sys.stderr
        self._ideal = ideal
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begins to measure after `step`."""
        self._step, self._since, self._waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting(self, latest: Pending | None) -> Generator[None]:
        """Times the wait for a batch; it counts only if the step before, which gave `latest`, is done by its end."""
        start = time.perf_counter()
        yield
        if latest is None or latest.is_ready():
            self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Around what is not a step: validation, samples, checkpoints."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def row(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """The ``time/`` fields of the steps since the last row; begins to measure the next."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        per_step = seconds / max(step - self._step, 1)
        row = {"time/step_ms": 1000 * per_step, "time/input_wait": self._waited / seconds}
        row |= {f"time/{name}_per_s": values[name] / seconds for name in ("tokens", "images") if name in values}
        if self._ideal is not None:
            row["time/mfu"] = self._ideal / per_step
        row["time/eta_s"] = per_step * (self._steps - step)
        self.begin(step)
        return row

    def tell(self, step: int, row: Mapping[str, float]) -> None:
        """Writes the line."""
        names = ["loss"] if len(self._phases) == 1 else self._phases
        shown = [f"{name} {row[f'loss/{phase}']:.4f}" for name, phase in zip(names, self._phases, strict=True)]
        shown += [f"{row[f'time/{n}_per_s']:,.0f} {n}/s" for n in ("tokens", "images") if f"time/{n}_per_s" in row]
        shown += [f"MFU {row['time/mfu']:.1%}"] if "time/mfu" in row else []
        shown += [f"input wait {row['time/input_wait']:.0%}", f"ETA {_duration(row['time/eta_s'])}"]
        books = [name.removesuffix("/spread") for name in row if name.endswith("/spread")]
        books = [name for name in books if name.startswith("codebook")]  # those of validation have rows of their own
        shown += [f"{name} {row[f'{name}/perplexity']:.0f} codes" for name in books]
        self.say(f"step {step}/{self._steps}  " + "  ".join(shown))
        for name in (name for name in books if row[f"{name}/spread"] < COLLAPSED):
            self.say(
                f"WARNING: {name} is collapsing: {row[f'{name}/perplexity']:.1f} codes in effect, "
                f"{row[f'{name}/spread']:.1%} of what these pictures could take"
            )

    def say(self, text: str) -> None:
        """Writes a line of its own."""
        print(f"{self._name}: {text}", file=self._out, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
