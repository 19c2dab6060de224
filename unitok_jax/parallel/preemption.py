"""The notice that a machine will be taken away (SIGTERM), heard by all processes at the same step."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Notice:
    """Listens for SIGTERM while it is entered.

    Among several processes JAX passes one process's notice on to all, and agrees on a step to stop at. A process alone
    has a handler of its own, from the main thread only; elsewhere nobody listens.
    """

    def __init__(self) -> None:
        self._heard = False
        self._before: Callable[[int, FrameType | None], Any] | int | None = None
        self._alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Notice":
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def given(self, step: int) -> bool:
        """Whether to save and stop after `step`; every process calls it at every step, and all get the same answer."""
        return self._heard or (jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step))

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
