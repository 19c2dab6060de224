"""Cross-entropy over a large vocabulary, chunk by chunk, so that [positions, vocabulary] never exists.

The chunks run over the vocabulary and not over the positions: the hidden states stay where they are, and each part of
the head is gathered once and its gradient reduced once, however the step is sharded. Chunk j holds the ids that leave
the remainder j, so that every shard of the head has its part in every chunk.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

CHUNK = 4096  # ids at a time
LOWEST = -1e30


class VocabularyLoss(NamedTuple):
    """What the head says at each position. Only `nll` and `logsumexp` have gradients.

    Attributes:
        nll: float32, negative log-likelihood of the target.
        logsumexp: float32, of the logits; its square is the z-loss (PaLM, arXiv 2204.02311, section 5).
        correct: whether the most likely id (the lowest of equals) is the target.
    """

    nll: Float[jax.Array, "*n"]
    logsumexp: Float[jax.Array, "*n"]
    correct: Bool[jax.Array, "*n"]


class LossSums(struct.PyTreeNode):
    """Sums over the positions of each group, float32 [groups].

    Attributes:
        nll: weighted negative log-likelihood.
        z: weighted squared logsumexp.
        correct: weighted hits of the most likely id.
        weight: the weights themselves.
        count: positions of weight other than 0.
    """

    nll: Float[jax.Array, "groups"]
    z: Float[jax.Array, "groups"]
    correct: Float[jax.Array, "groups"]
    weight: Float[jax.Array, "groups"]
    count: Float[jax.Array, "groups"]


def vocabulary_loss(
    hidden: Float[jax.Array, "*n D"],
    kernel: Float[jax.Array, "D Vpad"],
    targets: Int[jax.Array, "*n"],
    weights: Float[jax.Array, "*n"],
    vocab_size: int,
    chunk: int = CHUNK,
) -> VocabularyLoss:
    """Scores `targets` under ``softmax(hidden @ kernel)``; the softmax and its sums are float32.

    Rows of positions are not flattened, so that they stay sharded along every axis that they are sharded along.
    Positions of weight 0 give 0 whatever stands there, NaN or an impossible target included, and no gradient.

    Args:
        hidden: final hidden states, in the dtype to multiply in.
        kernel: the head; columns from `vocab_size` on are padding.
        targets: ids below `vocab_size`.
        weights: only their being 0 matters here.
        vocab_size: number of ids.
        chunk: ids at a time; all at once where that many suffice.
    """
    used = weights != 0
    hidden = jnp.where(used[..., None], hidden, 0)
    targets = jnp.where(used, targets, 0)
    plan = _Plan(vocab_size, kernel.shape[1], -(-kernel.shape[1] // chunk))
    nll, logsumexp, best = _score(plan, hidden, kernel, targets)
    return VocabularyLoss(*(jnp.where(used, x, 0) for x in (nll, logsumexp, best == targets)))


def sum_by_group(
    loss: VocabularyLoss, weights: Float[jax.Array, "*n"], groups: Int[jax.Array, "*n"], number: int
) -> LossSums:
    """Adds the positions up by group id (such as a batch's `task`), so that losses are logged apart."""
    inside = (groups[..., None] == jnp.arange(number)).astype(jnp.float32)
    parts = (loss.nll * weights, loss.logsumexp**2 * weights, loss.correct * weights, weights, weights != 0)
    return LossSums(*(jnp.tensordot(part.astype(jnp.float32), inside, weights.ndim) for part in parts))


class _Plan(NamedTuple):
    """The static side: number of ids, of columns, and of chunks."""

    vocab_size: int
    columns: int
    chunks: int

    @property
    def ids(self) -> int:
        """Ids in a chunk."""
        return -(-self.columns // self.chunks)

    def split(self, kernel: jax.Array, dtype) -> jax.Array:
        """The head as [ids, chunks, D]: id ``i * chunks + j`` is row i of chunk j."""
        rows = jnp.pad(kernel.astype(dtype).T, ((0, self.ids * self.chunks - self.columns), (0, 0)))
        return rows.reshape(self.ids, self.chunks, -1)

    def join(self, parts: jax.Array) -> jax.Array:
        """The inverse of `split` for stacked chunks [chunks, ids, D]."""
        return parts.swapaxes(0, 1).reshape(self.ids * self.chunks, -1)[: self.columns].T

    def logits(self, hidden: jax.Array, parts: jax.Array, chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Float32 logits of a chunk, [*n, ids], and its ids."""
        ids = jnp.arange(self.ids) * self.chunks + chunk
        rows = jax.lax.dynamic_index_in_dim(parts, chunk, 1, keepdims=False)
        shared = (hidden.ndim - 1,), (1,)
        logits = jax.lax.dot_general(hidden, rows, (shared, ((), ())), preferred_element_type=jnp.float32)
        return jnp.where(ids < self.vocab_size, logits, LOWEST), ids


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(plan: _Plan, hidden, kernel, targets):
    """Negative log-likelihood, logsumexp and the most likely id, each [*n]."""
    parts = plan.split(kernel, hidden.dtype)

    def visit(carry, chunk):
        top, best, total, target_logit = carry
        logits, ids = plan.logits(hidden, parts, chunk)
        here = logits.max(-1)
        first = ids[jnp.argmax(logits, -1)]
        best = jnp.where((here > top) | ((here == top) & (first < best)), first, best)
        new_top = jnp.maximum(top, here)
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(-1)
        target_logit += jnp.where(ids == targets[..., None], logits, 0).sum(-1)
        return (new_top, best, total, target_logit), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    start = zeros + LOWEST, jnp.zeros(targets.shape, jnp.int32), zeros, zeros
    (top, best, total, target_logit), _ = jax.lax.scan(visit, start, jnp.arange(plan.chunks))
    logsumexp = top + jnp.log(total)
    return logsumexp - target_logit, logsumexp, best


def _score_forward(plan: _Plan, hidden, kernel, targets):
    nll, logsumexp, best = _score(plan, hidden, kernel, targets)
    return (nll, logsumexp, best), (hidden, kernel, targets, logsumexp)


def _score_backward(plan: _Plan, saved, grads):
    hidden, kernel, targets, logsumexp = saved
    d_nll, d_logsumexp, _ = grads
    parts, places = plan.split(kernel, hidden.dtype), tuple(range(targets.ndim))

    def visit(d_hidden, chunk):
        logits, ids = plan.logits(hidden, parts, chunk)
        d_logits = jnp.exp(logits - logsumexp[..., None]) * (d_nll + d_logsumexp)[..., None]
        d_logits = (d_logits - jnp.where(ids == targets[..., None], d_nll[..., None], 0)).astype(hidden.dtype)
        rows = jax.lax.dynamic_index_in_dim(parts, chunk, 1, keepdims=False)
        d_hidden += jnp.matmul(d_logits, rows, preferred_element_type=jnp.float32)
        d_rows = jnp.tensordot(d_logits, hidden, (places, places), preferred_element_type=jnp.float32)
        return d_hidden, d_rows.astype(kernel.dtype)

    start = jnp.zeros(hidden.shape, jnp.float32)
    d_hidden, d_parts = jax.lax.scan(visit, start, jnp.arange(plan.chunks))
    return d_hidden.astype(hidden.dtype), plan.join(d_parts), None


_score.defvjp(_score_forward, _score_backward)
