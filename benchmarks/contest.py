"""Contestants timed in turns: what disturbs the machine disturbs all of them alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # what JAX records when XLA compiles a program


@dataclasses.dataclass(frozen=True)
class Times:
    """One contestant's runs, warm-up excluded.

    Attributes:
        seconds: by the clock.
        cpu: seconds of all of the process's threads: what the work costs even where others use the machine.
    """

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    @property
    def median_cpu(self) -> float:
        """The middle one of the threads' seconds."""
        return statistics.median(self.cpu)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: how quiet the machine was."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def race(contestants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, Times]:
    """Runs the contestants in turns, the first of a round the last of the next.

    Args:
        contestants: by name; each call does the work and returns when it is done.
        rounds: timed runs of each.
        warm_up: runs of each before, which compile.

    Raises:
        RuntimeError: if anything compiled while the clock ran.
    """
    for _ in range(warm_up):
        for run in contestants.values():
            run()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    compiled = _compiled()
    for turn in range(rounds):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter(), time.process_time()
            contestants[name]()
            taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    if _compiled() != compiled:
        raise RuntimeError(
            f"{_compiled() - compiled} programs compiled while the clock ran; the times are worth nothing"
        )
    return {name: Times(*zip(*runs, strict=True)) for name, runs in taken.items()}


def largest(fits: Callable[[int], bool], limit: int = 1 << 14) -> int:
    """The largest size up to `limit` that fits, by doubling and then halving the gap; 0 if 1 does not."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= limit and fits(middle) else (low, middle)
    return low


def fits_in_memory(run: Callable[[], object], errors: Sequence[type[BaseException]]) -> bool:
    """Whether `run` ends without one of the `errors` that say that memory ran out."""
    try:
        run()
    except tuple(errors) as error:
        if "out of memory" not in str(error).lower() and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return False
    return True


_compilations: list[float] = []


def _compiled() -> int:
    return len(_compilations)


jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: _compilations.append(seconds) if name == COMPILED else None
)
