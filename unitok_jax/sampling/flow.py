"""Flow matching: noisy pictures ``(1 - sigma) x + sigma noise``, and a second-order solver from noise to picture.

The model predicts the velocity ``noise - x``. The solver is DPM-Solver++ (arXiv 2211.01095) with SANA's shifted grid
of sigmas, as diffusers' ``DPMSolverMultistepScheduler`` runs it with flow sigmas, order 2 and midpoints.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

STEPS = 1000  # of the training's grid
Latents = Float[Array, "batch rows columns channels"]
Velocity = Callable[[Latents, Num[Array, ""]], Latents]  # (noisy latents, timestep) -> velocity


def shifted(share: Num[Array | np.ndarray, "*n"], shift: float) -> Float[Array | np.ndarray, "*n"]:
    """Sigmas with more of them near pure noise, where `shift` is above 1."""
    return shift * share / (1 + (shift - 1) * share)


def sigma_grid(steps: int, shift: float = 3.0) -> tuple[Float[np.ndarray, "n_and_1"], Int[np.ndarray, "n"]]:
    """The sigmas of a drawing in `steps` steps, the last one 0, and the whole timesteps that the model is told."""
    shares = 1 - np.linspace(1, 1 / STEPS, steps + 1)
    sigmas = np.asarray(shifted(shares, shift))[::-1][:-1]
    timesteps = (sigmas * STEPS).astype(np.int64)
    return np.append(sigmas, 0.0).astype(np.float32), timesteps


def solve(
    velocity: Velocity, noise: Latents, steps: int, shift: float = 3.0
) -> tuple[Latents, Float[Array, "steps batch rows columns channels"]]:
    """From noise to latents, and what they are after each step; one loop, float32 inside.

    The first and the last step are of first order, the others of second.
    """
    sigmas, timesteps = sigma_grid(steps, shift)
    table = np.stack([_coefficients(sigmas, step) for step in range(steps)])

    def advance(carry: tuple[Latents, Latents], now: tuple[Any, Any]) -> tuple[tuple[Latents, Latents], Latents]:
        x, before = carry
        timestep, (sigma, keep, move, bend) = now
        clean = x - sigma * velocity(x, timestep).astype(jnp.float32)
        x = keep * x + move * clean + bend * (clean - before)
        return (x, clean), x

    start = noise.astype(jnp.float32)
    (x, _), path = jax.lax.scan(advance, (start, jnp.zeros_like(start)), (timesteps.astype(np.float32), table))
    return x, path


def _coefficients(sigmas: Float[np.ndarray, "n"], step: int) -> Float[np.ndarray, "4"]:
    """(sigma, factor of x, of the clean latents, of their change) of one step, from float64."""
    now, after = (float(s) for s in sigmas[step : step + 2])
    if after == 0:
        return np.array([now, 0, 1, 0], np.float32)
    width = _level(after) - _level(now)
    move = -(1 - after) * np.expm1(-width)
    bend = 0.0
    if step:
        ratio = (_level(now) - _level(float(sigmas[step - 1]))) / width
        bend = 0.5 * move / ratio
    return np.array([now, after / now, move, bend], np.float32)


def _level(sigma: float) -> float:
    """Half the logarithm of the signal-to-noise ratio; that of pure noise counts as that of nearly pure noise."""
    return float(np.log(max(1 - sigma, 1e-30)) - np.log(sigma))


def noised(clean: Latents, noise: Latents, sigma: Float[Array, "batch"]) -> Latents:
    """``(1 - sigma) clean + sigma noise``."""
    sigma = sigma[:, None, None, None]
    return (1 - sigma) * clean + sigma * noise


def training_sigmas(
    index: Int[Array, "batch"], shift: float = 3.0
) -> tuple[Float[Array, "batch"], Int[Array, "batch"]]:
    """Sigmas of places 0 .. 999 of the training's grid, and the whole timesteps that the model is told.

    Looked up in tables made in float64: float32 on a device may round a sigma across a whole timestep.
    """
    sigmas = shifted(np.arange(STEPS) / STEPS, shift)
    timesteps = np.floor(STEPS * sigmas).astype(np.int32)
    return jnp.asarray(sigmas, jnp.float32)[index], jnp.asarray(timesteps)[index]


def draw_indices(key: PRNGKeyArray, count: int) -> Int[Array, "count"]:
    """Places of the training's grid from a logit-normal distribution (SANA)."""
    share = jax.nn.sigmoid(jax.random.normal(key, (count,)))
    return jnp.minimum(jnp.floor(STEPS * share), STEPS - 1).astype(jnp.int32)
