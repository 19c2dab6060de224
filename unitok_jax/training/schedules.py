"""Learning-rate schedules, as factors of the peak rate."""

import dataclasses
import math
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
        name: ``constant``, ``cosine`` (half a period down to the floor), ``linear`` (down to the floor), ``steps``, or
            ``cosine_after`` (as ``cosine``, from the last whole step of the warm-up and the factor reached there: what
            a chain of torch's schedulers does where the warm-up is fractional).
        warmup: steps of linear rise from 0, before the rest; may be fractional (0.01 epoch).
        warmup_offset: added to the step in the rise; 1 lets the first update move (open_clip).
        floor: the last factor of ``cosine`` and ``linear``, and of a cool-down.
        cooldown: for ``constant``, the last steps, which fall to the floor.
        power: of this fall.
        begin: the step that the schedule counts as its first.
        period: steps after which it begins anew; 0 never.
        boundaries: for ``steps``, from which step on the factor of the same index holds.
        factors: for ``steps``, fractions of the peak rate.
    """

    name: str = "constant"
    warmup: float = 0.0
    warmup_offset: float = 0.0
    floor: float = 0.0
    cooldown: int = 0
    power: float = 1.0
    begin: int = 0
    period: int = 0
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
    shape, length = _SHAPES[settings.name], (settings.period or steps - settings.begin)

    def factor(step: ArrayLike) -> Float[jax.Array, ""]:
        step = jnp.maximum(jnp.asarray(step, jnp.float32) - settings.begin, 0)
        step = step % settings.period if settings.period else step
        after = shape(settings, step, length)
        if not settings.warmup:
            return after
        return jnp.where(step < settings.warmup, (step + settings.warmup_offset) / settings.warmup, after)

    return factor


def _progress(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    """The share of the steps after the warm-up that have passed."""
    return jnp.clip((step - settings.warmup) / max(length - settings.warmup, 1e-6), 0.0, 1.0)


def _constant(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    if not settings.cooldown:
        return jnp.ones(())
    passed = jnp.clip((step - (length - settings.cooldown)) / settings.cooldown, 0.0, 1.0)
    return settings.floor + (1 - settings.floor) * (1 - passed) ** settings.power


def _cosine(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    return settings.floor + (1 - settings.floor) * _half_wave(_progress(settings, step, length))


def _cosine_after(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    turn = math.floor(settings.warmup)
    reached = turn / settings.warmup if settings.warmup else 1.0
    passed = jnp.clip((step - turn) / max(length - settings.warmup, 1e-6), 0.0, 1.0)
    return settings.floor + (reached - settings.floor) * _half_wave(passed)


def _half_wave(progress: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _linear(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    return settings.floor + (1 - settings.floor) * (1 - _progress(settings, step, length))


def _steps(settings: ScheduleSettings, step: jax.Array, length: float) -> jax.Array:
    factors = jnp.array((1.0, *settings.factors))
    return factors[jnp.searchsorted(jnp.array((*settings.boundaries, jnp.inf)), step, side="right")]


_SHAPES = {
    "constant": _constant,
    "cosine": _cosine,
    "cosine_after": _cosine_after,
    "linear": _linear,
    "steps": _steps,
}
