"""Drawing ids from logits with one key a row: what a sample draws does not depend on the batch it stands in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from unitok_jax.sampling import filters
from unitok_jax.sampling.settings import Sampling

Keys = Key[Array, "rows"] | UInt32[Array, "rows 2"]


def sample_keys(seeds: Int[Array | np.ndarray, "rows"]) -> Key[Array, "rows"]:
    """One key a sample, from its seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def step_keys(keys: Keys, step: int | Int[Array, ""]) -> Keys:
    """The samples' keys for one step of a decode."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def draw(logits: Float[Array, "rows vocab"], keys: Keys, sampling: Sampling) -> Int[Array, "rows"]:
    """Draws one id a row: top-k, top-p, then the temperature (0: arg-max, the lowest id on ties)."""
    return _draw(logits, keys, sampling.temperature, sampling.top_k, sampling.top_p)


def draw_by_mode(
    logits: Float[Array, "rows vocab"],
    keys: Keys,
    first: Sampling,
    second: Sampling,
    in_first: Bool[Array, "rows"],
) -> Int[Array, "rows"]:
    """`draw` as `first` says in the rows `in_first` and as `second` says elsewhere."""

    def pick(field: str) -> Any:
        a, b = getattr(first, field), getattr(second, field)
        return a if a == b else jnp.where(in_first, a, b)

    return _draw(logits, keys, pick("temperature"), pick("top_k"), pick("top_p"))


def _draw(
    logits: Float[Array, "rows vocab"],
    keys: Keys,
    temperature: float | Float[Array, "rows"],
    top_k: int | Int[Array, "rows"],
    top_p: float | Float[Array, "rows"],
) -> Int[Array, "rows"]:
    if isinstance(temperature, int | float) and temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), logits.shape[:1])[:, None]
    kept = filters.keep_top_p(filters.keep_top_k(logits, top_k), top_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    greedy = temperature == 0
    scores = jnp.where(greedy, kept, kept / jnp.where(greedy, 1.0, temperature) + noise)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)
