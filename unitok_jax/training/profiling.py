"""A trace of a few steps, for TensorBoard's profile page or Perfetto."""

import dataclasses

import jax
from etils import epath
from jaxtyping import Shaped

from unitok_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ProfileSteps:
    """Which steps to trace: `count` of them from `first` on."""

    first: int
    count: int = 3


def read_steps(text: str) -> ProfileSteps:
    """Reads ``FIRST`` or ``FIRST:COUNT``.

    Raises:
        UserError: if it is neither.
    """
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UserError(f"--profile {text}: expected FIRST or FIRST:COUNT, such as 10:3")
    return ProfileSteps(*map(int, parts))


class Profiler:
    """Traces steps into ``workdir/profile``; does nothing without `steps`.

    Args:
        workdir: of the run.
        steps: which to trace.
    """

    def __init__(self, workdir: epath.PathLike, steps: ProfileSteps | None):
        self._folder, self._steps = str(epath.Path(workdir) / "profile"), steps
        self._last: int | None = None  # step of the trace that is under way

    def before(self, step: int) -> None:
        """Call it before a step is queued."""
        if self._steps is not None and step == self._steps.first:
            jax.profiler.start_trace(self._folder)
            self._last = step + self._steps.count - 1

    def after(self, step: int, result: Shaped[jax.Array, "..."]) -> None:
        """Call it after; waits for `result` of the last traced step."""
        if step == self._last:
            result.block_until_ready()
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._last is not None:
            self._last = None
            jax.profiler.stop_trace()
