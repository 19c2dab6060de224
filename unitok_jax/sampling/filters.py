"""What may be drawn: top-k, top-p, allowed and forced ids. Pure functions on logits [rows, vocabulary].

Thresholds are found by bisection over the 32 bits of a float instead of by sorting: exact, as cheap for k = 4000 as
for k = 5, and k and p may differ by row or be traced, so that a switch between text and image needs no compile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def keep_top_k(logits: Float[Array, "rows vocab"], k: int | Int[Array, "rows"]) -> Float[Array, "rows vocab"]:
    """Sets logits strictly below a row's k-th largest to -inf; ties with it stay. k = 0 keeps all."""
    if isinstance(k, int) and k == 0:
        return logits
    vocab = logits.shape[-1]
    k = jnp.broadcast_to(jnp.asarray(k), logits.shape[:1])
    wanted = jnp.where(k == 0, vocab, jnp.minimum(k, vocab))
    threshold = _largest_threshold(logits, lambda kept: kept.sum(axis=-1) >= wanted)
    return jnp.where(logits >= threshold[:, None], logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "rows vocab"], p: float | Float[Array, "rows"]) -> Float[Array, "rows vocab"]:
    """Keeps a row's likeliest ids until their probability reaches p, the crossing one (and its ties) included.

    p = 1 keeps all, also what rounding would leave out.
    """
    if isinstance(p, float | int) and p >= 1:
        return logits
    p = jnp.broadcast_to(jnp.asarray(p, logits.dtype), logits.shape[:1])
    probabilities = jax.nn.softmax(logits, axis=-1)

    def enough(kept: Bool[Array, "rows vocab"]) -> Bool[Array, "rows"]:
        return (probabilities * kept).sum(axis=-1) >= p

    threshold = jnp.where(p < 1, _largest_threshold(logits, enough), -jnp.inf)
    return jnp.where(logits >= threshold[:, None], logits, -jnp.inf)


def keep_allowed(logits: Float[Array, "rows vocab"], allowed: Bool[Array, "#rows vocab"]) -> Float[Array, "rows vocab"]:
    """Sets the logits of ids that are not allowed to -inf."""
    return jnp.where(allowed, logits, -jnp.inf)


def force(
    logits: Float[Array, "rows vocab"], ids: Int[Array, "rows"], where: Bool[Array, "rows"]
) -> Float[Array, "rows vocab"]:
    """Leaves `ids` alone possible in the rows `where`: their logit becomes 0, all others -inf."""
    only = jnp.where(jnp.arange(logits.shape[-1]) == ids[:, None], 0.0, -jnp.inf).astype(logits.dtype)
    return jnp.where(where[:, None], only, logits)


def _largest_threshold(
    logits: Float[Array, "rows vocab"], enough: Callable[[Bool[Array, "rows vocab"]], Bool[Array, "rows"]]
) -> Float[Array, "rows"]:
    """The largest value t of each row for which `enough(logits >= t)` holds; `enough` is monotone."""
    keys = _ordered(logits)

    def set_bit(i: Array, key: Array) -> Array:
        candidate = key | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(enough(keys >= candidate[:, None]), candidate, key)

    key = jax.lax.fori_loop(0, 32, set_bit, jnp.zeros(logits.shape[:1], jnp.uint32))
    # The key found may lie between two logits' keys only if `enough` jumps there, so it is one of theirs, or 0.
    return jnp.where(key == 0, -jnp.inf, _from_ordered(key))


def _ordered(values: Float[Array, "*n"]) -> Array:
    """Unsigned integers in the order of the floats: negative ones flipped, positive ones above them."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _from_ordered(keys: Array) -> Float[Array, "*n"]:
    bits = jnp.where(keys >> 31 == 1, keys & jnp.uint32((1 << 31) - 1), ~keys)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
