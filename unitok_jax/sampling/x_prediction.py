"""Diffusion along straight lines with a network that predicts the clean data: times, noise, loss and sampler.

``z_t = (1 - t) e + t x`` with noise e at t = 0 and data x at t = 1; the network says x, and ``v = (x - z) / (1 - t)``.
Source: BitDance (arXiv 2602.14041) and the samplers of its release, whose step from t stops dividing at
``1 - t = 0.05``. All of it is float32; arrays have rows first, and times one number a row.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.errors import UserError
from unitok_jax.settings import near

CLOSEST = 0.05  # the last step is taken from 1 - CLOSEST
SCHEDULES = ("logit_normal", "uniform")
GUIDANCES = ("linear", "constant")

Rows = Float[Array, "rows *data"]
Times = Float[Array, "*rows"]
Predict = Callable[[Rows, Float[Array, "rows"]], Rows]  # (z, t) -> x


def times(
    draws: Times, schedule: str = "logit_normal", mean: float = -0.8, deviation: float = 0.8, shift: float = 1.0
) -> Times:
    """Training times from draws: standard normal ones under ``logit_normal``, uniform ones under ``uniform``.

    Raises:
        UserError: for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"time schedule: no schedule {schedule!r}.{near(schedule, SCHEDULES)}")
    if schedule == "logit_normal":
        draws = jax.nn.sigmoid(deviation * draws.astype(jnp.float32) + mean)
    return shifted(draws, shift)


def draw_times(key: PRNGKeyArray, shape: tuple[int, ...], schedule: str) -> Times:
    """The draws that `times` takes."""
    draw = jax.random.uniform if schedule == "uniform" else jax.random.normal
    return draw(key, shape)


def shifted(t: Times, shift: float) -> Times:
    """Moves times towards the noise where `shift` is above 1: ``t / (t + shift (1 - t))``."""
    return t if shift == 1 else t / (t + shift * (1 - t))


def between(data: Rows, noise: Rows, t: Float[Array, "rows"]) -> Rows:
    """The noisy data at time t."""
    t = _spread(t, data)
    return (1 - t) * noise + t * data


def velocity(data: Rows, z: Rows, t: Float[Array, "rows"]) -> Rows:
    """The velocity from z at time t to the data."""
    t = _spread(t, data)
    return (data - z) / jnp.maximum(1 - t, CLOSEST)


def velocity_loss(predicted: Rows, data: Rows, z: Rows, t: Float[Array, "rows"]) -> Rows:
    """Squared difference of the velocities to the predicted and to the true data, entry by entry."""
    predicted, data = predicted.astype(jnp.float32), data.astype(jnp.float32)
    return jnp.square(velocity(data, z, t) - velocity(predicted, z, t))


def time_grid(steps: int, shift: float) -> Float[Array, "steps_plus_one"]:
    """The times that a sampler of `steps` steps passes through, from 0 to (shifted) 0.95."""
    return shifted(jnp.linspace(0.0, 1 - CLOSEST, steps + 1, dtype=jnp.float32), shift)


def euler_maruyama(
    predict: Predict,
    noise: Float[Array, "steps_plus_one samples *data"],
    *,
    guidance: float | Float[Array, ""] | Float[Array, "samples"] | None = None,
    shift: float = 1.0,
) -> tuple[Float[Array, "samples *data"], dict[str, Array]]:
    """Draws data: Euler-Maruyama steps to t = 0.95, then one straight step.

    Args:
        predict: the network; under guidance it is given every sample twice, for its conditional rows and then for
            its unconditional ones.
        noise: standard normal; the first entry is where the samples start, each other one is a step's.
        guidance: scale s of ``u + s (c - u)`` on velocities, one number or one a sample; None takes `predict` as it is.
        shift: see `shifted`.

    Returns:
        The samples, and ``{"times", "predictions"}``: what `predict` was given and gave, at each of its calls.
    """
    grid = time_grid(len(noise) - 1, shift)

    def look(x: Array, t: Array) -> tuple[Array, Array]:
        rows = x if guidance is None else jnp.concatenate([x, x])
        predicted = predict(rows, jnp.full(len(rows), t)).astype(jnp.float32)
        v = velocity(predicted, rows, jnp.full(len(rows), t))
        return v if guidance is None else _guided(v, guidance), predicted

    def step(state: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (x, t), (length, draw) = state, given
        v, predicted = look(x, t)
        score = (t * v - x) / (jnp.square(1 - t) + t * (1 - t))
        x = x + (v + (1 - t) * score) * length + jnp.sqrt(2 * (1 - t) * length) * draw
        return (x, t + length), (t, predicted)

    # The time is summed up step by step, as released.
    start = noise[0].astype(jnp.float32), jnp.zeros((), jnp.float32)
    (x, _), (seen, predictions) = jax.lax.scan(step, start, (jnp.diff(grid), noise[1:].astype(jnp.float32)))
    last = jnp.float32(1 - CLOSEST)
    v, predicted = look(x, last)
    aux = {"times": jnp.append(seen, last), "predictions": jnp.concatenate([predictions, predicted[None]])}
    return x + CLOSEST * v, aux


def _guided(v: Rows, guidance: float | Array) -> Array:
    conditional, unconditional = jnp.split(v, 2)
    scale = jnp.asarray(guidance, jnp.float32)
    return unconditional + _spread(scale, v) * (conditional - unconditional)


def guidance_at(schedule: str, scale: float, step: int | Int[Array, ""], steps: int) -> float | Float[Array, ""]:
    """The guidance of a step of an autoregressive decode: ``constant``, or ``linear`` from 1 up towards `scale`.

    Raises:
        UserError: for an unknown schedule.
    """
    if schedule not in GUIDANCES:
        raise UserError(f"guidance schedule: no schedule {schedule!r}.{near(schedule, GUIDANCES)}")
    return scale if schedule == "constant" else 1 + (scale - 1) * step / steps


def _spread(values: Array, data: Array) -> Array:
    """One number a row, broadcast over the rows' data."""
    return values.reshape(*values.shape, *[1] * (data.ndim - values.ndim)) if values.ndim else values
