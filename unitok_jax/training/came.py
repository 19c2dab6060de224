"""CAME (arXiv 2307.02047): Adafactor's factored second moments, and confidence in place of their instability.

SANA's recipe, and so Tar's diffusion de-tokenizer's, trains with it. It is in no library that this project uses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unitok_jax.training.partition import stacked


@dataclasses.dataclass(frozen=True)
class CameSettings:
    """`config.optimizer.came`; the defaults are SANA's.

    Attributes:
        betas: of the first moment, the second moments and the instability.
        eps: added to the squared gradient and to the squared instability.
        clip: the most that the root mean square of one parameter's scaled gradient may be.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip: float = 1.0


class Moments(NamedTuple):
    """Of one parameter: the first moment; second moments and instability, each whole or as (rows, columns)."""

    first: Array
    second: Any
    instability: Any


def scale_by_came(settings: CameSettings) -> optax.GradientTransformation:
    """Gradient -> CAME's direction.

    A parameter of two or more axes is a stack of matrices over its last two; those of a layer stack, whose path has a
    ``span_``, have one axis more, and each layer is scaled by itself, as if it were a parameter of its own.
    """

    def init(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, p: _each(path)(_begin)(p), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        states = tree.flatten_up_to(state)
        moved = [
            _each(path)(lambda g, m: _direction(settings, g, m))(grad, moments)
            for (path, grad), moments in zip(leaves, states, strict=True)
        ]
        directions, states = zip(*moved, strict=True)
        return tree.unflatten(directions), tree.unflatten(states)

    return optax.GradientTransformation(init, update)


def _each(path: tuple[Any, ...]) -> Callable[[Callable], Callable]:
    """`vmap` over the layers of a stacked parameter."""
    return jax.vmap if stacked(path) else lambda function: function


def _begin(p: Array) -> Moments:
    def second() -> Any:
        if p.ndim < 2:
            return jnp.zeros_like(p)
        return jnp.zeros(p.shape[:-1], p.dtype), jnp.zeros((*p.shape[:-2], p.shape[-1]), p.dtype)

    return Moments(jnp.zeros_like(p), second(), second() if p.ndim >= 2 else ())


def _direction(settings: CameSettings, grad: Array, old: Moments) -> tuple[Array, Moments]:
    (first, second, third), (tiny, unsure) = settings.betas, settings.eps
    scale, seconds = _decayed(jnp.square(grad) + tiny, old.second, second)
    step = grad * scale
    step = step / jnp.maximum(1.0, jnp.sqrt(jnp.mean(jnp.square(step))) / settings.clip)
    mean = first * old.first + (1 - first) * step
    if grad.ndim < 2:
        return mean, Moments(mean, seconds, ())
    confidence, instability = _decayed(jnp.square(step - mean) + unsure, old.instability, third)
    return mean * confidence, Moments(mean, seconds, instability)


def _decayed(squares: Float[Array, "*n"], old: Any, beta: float) -> tuple[Float[Array, "*n"], Any]:
    """One over the root of the moving average of `squares`, and that average; of matrices by rows and columns."""
    if squares.ndim < 2:
        new = beta * old + (1 - beta) * squares
        return jax.lax.rsqrt(new), new
    rows = beta * old[0] + (1 - beta) * squares.mean(-1)
    columns = beta * old[1] + (1 - beta) * squares.mean(-2)
    row_scale = jax.lax.rsqrt(rows / rows.mean(-1, keepdims=True))
    return row_scale[..., None] * jax.lax.rsqrt(columns)[..., None, :], (rows, columns)
