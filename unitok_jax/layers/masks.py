"""Which query may read which key, described by vectors; a matrix of it is made only where a backend needs one."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int

Queries = Float[jax.Array, "B S N H"]  # and what attention gives back for them
Keys = Float[jax.Array, "B T K H"]  # and values


class AttentionMask(struct.PyTreeNode):
    """A query reads a key when they share a segment and the key is not later, or both lie in one block.

    Every field is optional, and a field of batch 1 serves all rows.

    Attributes:
        q_index: where the queries stand in order; None counts from 0.
        k_index: where the keys stand in order; None counts from 0.
        q_segments, k_segments: equal ids see each other; 0 is padding, which sees nothing and is seen by nobody.
            Both or neither.
        q_blocks, k_blocks: equal ids >= 0 attend both ways; -1 leaves it to the order. Both or neither.
        causal: whether order matters at all; without it every key of the segment is read.
        packed: whether a row may hold several segments; False says that it has one, from its start, and then padding.
        longest_block: the most positions that a block takes, where each is one run of neighbours; None: not known.
    """

    q_index: Int[jax.Array, "#B S"] | None = None
    k_index: Int[jax.Array, "#B T"] | None = None
    q_segments: Int[jax.Array, "#B S"] | None = None
    k_segments: Int[jax.Array, "#B T"] | None = None
    q_blocks: Int[jax.Array, "#B S"] | None = None
    k_blocks: Int[jax.Array, "#B T"] | None = None
    causal: bool = struct.field(pytree_node=False, default=True)
    packed: bool = struct.field(pytree_node=False, default=True)
    longest_block: int | None = struct.field(pytree_node=False, default=None)

    @property
    def in_order(self) -> bool:
        """Whether queries and keys are both counted from 0."""
        return self.q_index is None and self.k_index is None

    @property
    def reach(self) -> int | None:
        """How many positions after its own a query reads at most; None where that is not known."""
        if not self.causal or not self.in_order:
            return None
        if self.q_blocks is None:
            return 0
        return None if self.longest_block is None else self.longest_block - 1

    @property
    def vectors(self) -> dict[str, jax.Array]:
        """The arrays that are there, by field."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if name[:2] in ("q_", "k_") and value is not None}

    def indices(self, q_len: int, k_len: int) -> tuple[Int[jax.Array, "#B S"], Int[jax.Array, "#B T"]]:
        """Both indices, written out."""
        q_index = jnp.arange(q_len)[None] if self.q_index is None else self.q_index
        k_index = jnp.arange(k_len)[None] if self.k_index is None else self.k_index
        return q_index, k_index


FULL = AttentionMask(causal=False)


def self_mask(
    segments: Int[jax.Array, "#B S"] | None = None,
    blocks: Int[jax.Array, "#B S"] | None = None,
    causal: bool = True,
    packed: bool = True,
    longest_block: int | None = None,
) -> AttentionMask:
    """The mask of a sequence that reads itself."""
    vectors = dict(q_segments=segments, k_segments=segments, q_blocks=blocks, k_blocks=blocks)
    return AttentionMask(**vectors, causal=causal, packed=packed, longest_block=longest_block)


def allowed(mask: AttentionMask, q_len: int, k_len: int) -> Bool[jax.Array, "#B S T"]:
    """The mask as a matrix: [batch, queries, keys], true where a query reads a key."""
    q_index, k_index = mask.indices(q_len, k_len)
    seen = jnp.ones((1, q_len, k_len), bool)
    if mask.causal:
        seen = q_index[:, :, None] >= k_index[:, None, :]
        if mask.q_blocks is not None and mask.k_blocks is not None:
            same_block = mask.q_blocks[:, :, None] == mask.k_blocks[:, None, :]
            seen |= same_block & (mask.q_blocks >= 0)[:, :, None]
    if mask.q_segments is not None and mask.k_segments is not None:
        same_segment = mask.q_segments[:, :, None] == mask.k_segments[:, None, :]
        seen &= same_segment & (mask.q_segments != 0)[:, :, None]
    return seen
