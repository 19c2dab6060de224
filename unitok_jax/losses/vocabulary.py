"""Cross-entropy over a large vocabulary, chunk by chunk, so that a large [positions, vocabulary] never exists.

The chunks run over the vocabulary and not over the positions: the hidden states stay where they are, and each part of
the head is gathered once and its gradient reduced once, however the step is sharded. Chunk j holds the ids that leave
the remainder j, so that every shard of the head has its part in every chunk. Logits are computed anew in the backward
pass, where they are not so few that they are kept.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

CHUNK = 4096  # ids at a time, or more where there are few positions
LOGITS = 2**24  # so few logits are computed at once, and kept for the backward pass
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
    chunk: int | None = None,
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
        chunk: ids at a time; all at once where that many suffice. By default `CHUNK`, or as many as make `LOGITS`.
    """
    used = weights != 0
    hidden = jnp.where(used[..., None], hidden, 0)
    targets = jnp.where(used, targets, 0)
    chunk = chunk or max(CHUNK, LOGITS // max(targets.size, 1))
    chunks = -(-kernel.shape[1] // chunk)
    plan = _Plan(vocab_size, kernel.shape[1], chunks, chunks == 1 and targets.size * kernel.shape[1] <= LOGITS)
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
    """The static side: number of ids, of columns and of chunks, and whether logits are kept (of one chunk alone)."""

    vocab_size: int
    columns: int
    chunks: int
    keeps: bool

    @property
    def ids(self) -> int:
        """Ids in a chunk."""
        return -(-self.columns // self.chunks)

    def split(self, kernel: jax.Array, dtype) -> jax.Array:
        """The head as [chunks, D, ids]: id ``i * chunks + j`` is column i of chunk j."""
        padded = jnp.pad(kernel.astype(dtype), ((0, 0), (0, self.ids * self.chunks - self.columns)))
        return jnp.moveaxis(padded.reshape(-1, self.ids, self.chunks), -1, 0)

    def join(self, parts: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        return jnp.moveaxis(parts, 0, -1).reshape(-1, self.ids * self.chunks)[:, : self.columns]

    def names(self, chunk: jax.Array) -> jax.Array:
        """The ids in a chunk."""
        return jnp.arange(self.ids) * self.chunks + chunk

    def logits(self, hidden: jax.Array, part: jax.Array, ids: jax.Array) -> jax.Array:
        """Float32 logits of a chunk, [*n, ids]."""
        logits = jnp.matmul(hidden, part, preferred_element_type=jnp.float32)
        return jnp.where(ids < self.vocab_size, logits, LOWEST)

    def scan(self, visit, carry, parts: jax.Array):
        """`jax.lax.scan` over (chunk, its part), or `visit` alone where there is one: a loop would copy the part."""
        if self.chunks > 1:
            return jax.lax.scan(visit, carry, (jnp.arange(self.chunks), parts))
        carry, one = visit(carry, (jnp.int32(0), parts[0]))
        return carry, jax.tree.map(lambda x: x[None], one)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(plan: _Plan, hidden, kernel, targets):
    """Negative log-likelihood, logsumexp and the most likely id, each [*n]."""
    return _score_forward(plan, hidden, kernel, targets)[0]


def _score_forward(plan: _Plan, hidden, kernel, targets):
    def visit(carry, one):
        (top, best, total, target_logit), (chunk, part) = carry, one
        ids = plan.names(chunk)
        logits = plan.logits(hidden, part, ids)
        here = logits.max(-1)
        first = ids[jnp.argmax(logits, -1)]
        best = jnp.where((here > top) | ((here == top) & (first < best)), first, best)
        new_top = jnp.maximum(top, here)
        total = total * jnp.exp(top - new_top) + jnp.exp(logits - new_top[..., None]).sum(-1)
        target_logit += jnp.where(ids == targets[..., None], logits, 0).sum(-1)
        return (new_top, best, total, target_logit), logits if plan.keeps else None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    start = zeros + LOWEST, jnp.zeros(targets.shape, jnp.int32), zeros, zeros
    (top, best, total, target_logit), kept = plan.scan(visit, start, plan.split(kernel, hidden.dtype))
    logsumexp = top + jnp.log(total)
    return (logsumexp - target_logit, logsumexp, best), (hidden, kernel, targets, logsumexp, kept)


def _score_backward(plan: _Plan, saved, grads):
    hidden, kernel, targets, logsumexp, kept = saved
    d_nll, d_logsumexp, _ = grads
    places = tuple(range(targets.ndim))

    def visit(d_hidden, one):
        chunk, part = one
        ids = plan.names(chunk)
        logits = kept[0] if plan.keeps else plan.logits(hidden, part, ids)
        d_logits = jnp.exp(logits - logsumexp[..., None]) * (d_nll + d_logsumexp)[..., None]
        d_logits = (d_logits - jnp.where(ids == targets[..., None], d_nll[..., None], 0)).astype(hidden.dtype)
        d_hidden += jnp.matmul(d_logits, part.T, preferred_element_type=jnp.float32)
        d_part = jnp.tensordot(hidden, d_logits, (places, places), preferred_element_type=jnp.float32)
        return d_hidden, d_part.astype(kernel.dtype)

    start = jnp.zeros(hidden.shape, jnp.float32)
    d_hidden, d_parts = plan.scan(visit, start, plan.split(kernel, hidden.dtype))
    return d_hidden.astype(hidden.dtype), plan.join(d_parts), None


_score.defvjp(_score_forward, _score_backward)
