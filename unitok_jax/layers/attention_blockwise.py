"""Attention over pairs of blocks with a running softmax: memory linear in length, forward and backward.

The online softmax is Milakov and Gimelshein's (arXiv 1805.02867), its use for attention and the recomputing backward
FlashAttention's (arXiv 2205.14135). Plain XLA: the fallback for every platform, length and kind of mask.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from unitok_jax.layers.masks import AttentionMask, Keys, Queries, allowed

BLOCK = 512
LOWEST = -1e30


def blockwise_attention(q: Queries, k: Keys, v: Keys, mask: AttentionMask, scale: float, block: int = BLOCK) -> Queries:
    """`attention` in blocks of `block` positions; lengths need not be multiples of it."""
    batch, q_len, heads, head_dim = q.shape
    k_len, kv_heads = k.shape[1:3]
    plan = Plan(q_len, k_len, block, mask.reach, scale)
    mask = _padded_mask(mask, plan)
    queries = _pad(q, 1, plan.q_padded).reshape(batch, -1, kv_heads, heads // kv_heads, head_dim)
    queries = queries.transpose(0, 2, 3, 1, 4)
    keys, values = (_pad(x, 1, plan.k_padded).transpose(0, 2, 1, 3) for x in (k, v))
    out = _attend(plan, queries, keys, values, mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, head_dim)[:, :q_len]


class Plan(NamedTuple):
    """The static side of one call.

    Attributes:
        q_len, k_len: true lengths.
        block: block length.
        reach: how many positions after its own a query reads at most; key blocks that lie farther are left out.
        scale: multiplies the scores.
    """

    q_len: int
    k_len: int
    block: int
    reach: int | None
    scale: float

    @property
    def q_padded(self) -> int:
        return -(-self.q_len // self.block) * self.block

    @property
    def k_padded(self) -> int:
        return -(-self.k_len // self.block) * self.block

    def pairs(self) -> Int32[np.ndarray, "pairs 2"]:
        """The (query block, key block) pairs to visit."""
        rows, columns = self.q_padded // self.block, self.k_padded // self.block
        return np.asarray([(i, j) for i in range(rows) for j in range(columns) if self._reaches(i, j)], np.int32)

    def _reaches(self, i: int, j: int) -> bool:
        return self.reach is None or j * self.block < (i + 1) * self.block + self.reach


def _pad(x: jax.Array, axis: int, length: int, fill=0) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths, constant_values=fill)


def _padded_mask(mask: AttentionMask, plan: Plan) -> AttentionMask:
    """Writes out what a block of the mask is cut from; the padding becomes segment 0."""
    q_index, k_index = mask.indices(plan.q_len, plan.k_len)
    mask = mask.replace(q_index=q_index, k_index=k_index)
    if mask.q_segments is None and (plan.q_len, plan.k_len) != (plan.q_padded, plan.k_padded):
        ones = jnp.ones((1, max(plan.q_len, plan.k_len)), jnp.int32)
        mask = mask.replace(q_segments=ones[:, : plan.q_len], k_segments=ones[:, : plan.k_len])
    length = {"q": plan.q_padded, "k": plan.k_padded}
    return _on_vectors(mask, lambda side, x: _pad(x, 1, length[side]))


def _on_vectors(mask: AttentionMask, function: Callable[[str, jax.Array], jax.Array]) -> AttentionMask:
    """Maps the mask's vectors, given the side (``q`` or ``k``) that each belongs to."""
    return mask.replace(**{name: function(name[0], x) for name, x in mask.vectors.items()})


def _cut(x: jax.Array, index: jax.Array, block: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, index * block, block, axis)


def _put(x: jax.Array, part: jax.Array, index: jax.Array, block: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, index * block, axis)


def _add(x: jax.Array, part: jax.Array, index: jax.Array, block: int, axis: int) -> jax.Array:
    return _put(x, _cut(x, index, block, axis) + part, index, block, axis)


def _scores(plan: Plan, q_block, k_block, mask: AttentionMask, i, j) -> tuple[jax.Array, jax.Array]:
    """Scaled scores float32 [B, K, G, block, block] and the mask that broadcasts to them."""
    side = {"q": i, "k": j}
    part = _on_vectors(mask, lambda name, x: _cut(x, side[name], plan.block, 1))
    seen = allowed(part, plan.block, plan.block)[:, None, None]
    scores = jnp.einsum("bkgsh,bkth->bkgst", q_block, k_block, preferred_element_type=jnp.float32) * plan.scale
    return jnp.where(seen, scores, LOWEST), seen


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, q, k, v, mask: AttentionMask):
    return _forward(plan, q, k, v, mask)[0]


def _forward(plan: Plan, q, k, v, mask: AttentionMask):
    """Output [B, K, G, S, H] in the inputs' dtype and the scores' logsumexp, float32 [B, K, G, S]."""
    size = plan.block
    # What depends on the mask alone is the same in every layer: without the barrier, differentiating a scan over layers
    # takes it out and keeps the mask of every pair of blocks, broadcast over heads.
    q, mask = jax.lax.optimization_barrier((q, mask))

    def visit(carry, pair):
        i, j = pair
        out, top, total = (_cut(x, i, size, 3) for x in carry)
        scores, seen = _scores(plan, _cut(q, i, size, 3), _cut(k, j, size, 2), mask, i, j)
        new_top = jnp.maximum(top, scores.max(-1))
        shrink = jnp.exp(top - new_top)
        weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0)
        total = total * shrink + weights.sum(-1)
        read = jnp.einsum(
            "bkgst,bkth->bkgsh", weights.astype(v.dtype), _cut(v, j, size, 2), preferred_element_type=jnp.float32
        )
        parts = out * shrink[..., None] + read, new_top, total
        return tuple(_put(x, part, i, size, 3) for x, part in zip(carry, parts, strict=True)), None

    empty = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:-1], LOWEST), jnp.zeros(q.shape[:-1], jnp.float32)
    (out, top, total), _ = jax.lax.scan(visit, empty, tuple(plan.pairs().T))
    some = total > 0
    out = jnp.where(some[..., None], out / jnp.where(some, total, 1)[..., None], 0)
    return out.astype(q.dtype), top + jnp.log(jnp.where(some, total, 1))


def _attend_forward(plan: Plan, q, k, v, mask: AttentionMask):
    out, logsumexp = _forward(plan, q, k, v, mask)
    return out, (q, k, v, mask, out, logsumexp)


def _attend_backward(plan: Plan, saved, grad):
    q, k, v, mask, out, logsumexp = saved
    size = plan.block
    # sum_t p_t dp_t of every query: what the softmax's Jacobian subtracts
    inner = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), -1)

    def visit(carry, pair):
        i, j = pair
        d_q, d_k, d_v = carry
        q_block, grad_block = (_cut(x, i, size, 3) for x in (q, grad))
        k_block, v_block = (_cut(x, j, size, 2) for x in (k, v))
        scores, seen = _scores(plan, q_block, k_block, mask, i, j)
        weights = jnp.where(seen, jnp.exp(scores - _cut(logsumexp, i, size, 3)[..., None]), 0)
        product = partial(jnp.einsum, preferred_element_type=jnp.float32)
        d_weights = product("bkgsh,bkth->bkgst", grad_block, v_block)
        d_scores = (weights * (d_weights - _cut(inner, i, size, 3)[..., None]) * plan.scale).astype(q.dtype)
        d_q = _add(d_q, product("bkgst,bkth->bkgsh", d_scores, k_block), i, size, 3)
        d_k = _add(d_k, product("bkgst,bkgsh->bkth", d_scores, q_block), j, size, 2)
        d_v = _add(d_v, product("bkgst,bkgsh->bkth", weights.astype(v.dtype), grad_block), j, size, 2)
        return (d_q, d_k, d_v), None

    empty = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    grads, _ = jax.lax.scan(visit, empty, tuple(plan.pairs().T))
    d_q, d_k, d_v = (g.astype(x.dtype) for g, x in zip(grads, (q, k, v), strict=True))
    return d_q, d_k, d_v, None


_attend.defvjp(_attend_forward, _attend_backward)
