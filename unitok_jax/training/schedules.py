"""Learning-rate schedules, as factors of the peak rate."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float

from unitok_jax.errors import UserError
from unitok_jax.settings import near


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate moves over a run.

    Attributes:
        name: ``constant``, ``cosine`` (half a period down to the floor), ``linear`` (down to the floor) or ``steps``.
        warmup: steps of linear rise from 0, before the rest; may be fractional (0.01 epoch).
        floor: the last factor of ``cosine`` and ``linear``.
        boundaries: for ``steps``, from which step on the factor of the same index holds.
        factors: for ``steps``, fractions of the peak rate.
    """

    name: str = "constant"
    warmup: float = 0.0
    floor: float = 0.0
    boundaries: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()


Schedule = Callable[[ArrayLike], jax.Array]  # the number of updates made so far -> factor, a scalar


def build_schedule(settings: ScheduleSettings, steps: int, where: str = "config.optimizer.schedule") -> Schedule:
    """Builds the schedule of a run of `steps` steps.

    UniToken's rate by epoch position, ``x = step / steps_per_epoch + epoch``, is ``cosine`` with its warm-up counted
    in steps (upstream ``unitoken/xllmx/util/lr_sched.py``).

    Raises:
        UserError: for an unknown name, or boundaries and factors that do not go together.
    """
    if settings.name not in _SHAPES:
        raise UserError(f"{where}.name: no schedule {settings.name!r}.{near(settings.name, _SHAPES)}")
    if len(settings.boundaries) != len(settings.factors) or list(settings.boundaries) != sorted(settings.boundaries):
        raise UserError(f"{where}: boundaries must rise and have one factor each, got {settings}")
    shape = _SHAPES[settings.name]

    def factor(step: ArrayLike) -> Float[ArrayLike, ""]:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - settings.warmup) / max(steps - settings.warmup, 1e-6), 0.0, 1.0)
        after = shape(settings, step, progress)
        if not settings.warmup:
            return after
        return jnp.where(step < settings.warmup, step / settings.warmup, after)

    return factor


def _constant(settings: ScheduleSettings, step: ArrayLike, progress: ArrayLike) -> ArrayLike:
    return jnp.ones(())


def _cosine(settings: ScheduleSettings, step: ArrayLike, progress: ArrayLike) -> ArrayLike:
    return settings.floor + (1 - settings.floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _linear(settings: ScheduleSettings, step: ArrayLike, progress: ArrayLike) -> ArrayLike:
    return settings.floor + (1 - settings.floor) * (1 - progress)


def _steps(settings: ScheduleSettings, step: ArrayLike, progress: ArrayLike) -> ArrayLike:
    factors = jnp.array((1.0, *settings.factors))
    return factors[jnp.searchsorted(jnp.array((*settings.boundaries, jnp.inf)), step, side="right")]


_SHAPES = {"constant": _constant, "cosine": _cosine, "linear": _linear, "steps": _steps}
