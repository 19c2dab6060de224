"""Drawing pictures' tokens with BitDance: every step and every diffusion step in one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unitok_jax.backbones.bitdance import BitDance, BitDanceConfig, generator_cache, step_reading
from unitok_jax.backbones.decoder_block import layers_apart, layers_stacked
from unitok_jax.backbones.kv_cache import KVCache
from unitok_jax.layers.applied import applied
from unitok_jax.sampling.draw import Keys
from unitok_jax.sampling.x_prediction import euler_maruyama, guidance_at

Draw = Callable[[Int[Array, ""], int], Float[Array, "steps_plus_one rows *P C"]]  # (step, rows) -> noise


class Plan(NamedTuple):
    """How to draw.

    Attributes:
        steps: diffusion steps of a token.
        guidance: the scale; at most 1 leaves the unconditional rows out.
        schedule: ``linear`` in the step, from 1 up, or ``constant``.
    """

    steps: int = 100
    guidance: float = 1.0
    schedule: str = "linear"

    @property
    def guided(self) -> bool:
        return self.guidance > 1


def generate(
    config: BitDanceConfig,
    params: dict[str, Any],
    labels: Int[Array, "B"],
    draw: Draw,
    plan: Plan,
    grid: tuple[int, int] | None = None,
) -> tuple[Float[Array, "B n C"], dict[str, Array]]:
    """Draws tokens, +1 and -1, in the order of prediction.

    Under the linear schedule the first step's guidance is exactly 1: all 2B rows are then drawn on their own, as
    released, and the unconditional rows go on from a first token of their own.

    Args:
        config, params: the generator.
        labels: classes.
        draw: the noise of a step, for so many rows.
        plan: diffusion steps and guidance.
        grid: (rows, columns); the config's by default.

    Returns:
        The tokens, and ``{"conditions", "predictions", "guidance"}`` of every step, over all rows.
    """
    grid = grid or config.grid
    model, count = BitDance(config), grid[0] * grid[1] // config.parallel_num
    rows = jnp.concatenate([labels, jnp.full_like(labels, config.classes)]) if plan.guided else labels
    positions = applied(model, params, grid, method="head_positions")
    params = layers_apart(params)

    def apply(method: str, *args: Any) -> Any:
        return applied(model, layers_stacked(params), *args, method=method)

    def take(x: Array, cache: KVCache, step: Array, guidance: Any) -> tuple[Array, KVCache, dict[str, Array]]:
        """Reads x and draws the P tokens of a step, for all rows."""
        hidden, cache, _ = apply("read", x, step_reading(config, grid, cache, x.shape[1]), cache)
        place = jax.lax.dynamic_slice_in_dim(positions, step * config.parallel_num, config.parallel_num, 0)
        condition = hidden[:, -config.parallel_num :] + place.astype(hidden.dtype)
        condition = condition if config.parallel_num > 1 else condition[:, 0]
        noise = draw(step, len(rows) if guidance is None or not plan.guided else len(labels))

        def predict(z: Array, t: Array) -> Array:
            return apply("denoise", z, t, condition)

        found, _ = euler_maruyama(predict, noise, guidance=guidance, shift=config.head.time_shift)
        found = found if len(found) == len(rows) else jnp.concatenate([found, found])
        tokens = jnp.sign(found).reshape(len(rows), config.parallel_num, config.channels)
        scale = jnp.float32(1.0 if guidance is None else guidance)
        return tokens, cache, {"conditions": condition, "predictions": found, "guidance": scale}

    def guidance(step: Any) -> Any:
        return guidance_at(plan.schedule, plan.guidance, step, count) if plan.guided else None

    first_guidance = None if plan.schedule == "linear" else guidance(0)
    cache = generator_cache(config, grid, len(rows))
    tokens, cache, first = take(apply("prefix", rows), cache, jnp.int32(0), first_guidance)

    def step(state: tuple[Array, KVCache], number: Array) -> tuple[tuple[Array, KVCache], Any]:
        tokens, cache, aux = take(apply("project", state[0]), state[1], number, guidance(number))
        return (tokens, cache), (tokens[: len(labels)], aux)

    _, (rest, aux) = jax.lax.scan(step, (tokens, cache), jnp.arange(1, count))
    drawn = jnp.concatenate([tokens[: len(labels)][None], rest])
    aux = jax.tree.map(lambda one, others: jnp.concatenate([one[None], others]), first, aux)
    return jnp.moveaxis(drawn, 0, 1).reshape(len(labels), -1, config.channels), aux


def noise_from_keys(config: BitDanceConfig, keys: Keys, plan: Plan) -> Draw:
    """Noise from one key a sample: what a sample becomes does not depend on the batch it stands in."""
    shape = (config.parallel_num, config.channels) if config.parallel_num > 1 else (config.channels,)

    def draw(step: Array, rows: int) -> Array:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        if rows > len(keys):  # the unconditional rows' own first token
            own = jnp.concatenate([own, jax.vmap(jax.random.fold_in, (0, None))(own, 1)])
        return jax.vmap(lambda key: jax.random.normal(key, (plan.steps + 1, *shape)), out_axes=1)(own)

    return draw
