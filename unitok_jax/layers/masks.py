"""Which query may read which key, described by vectors; a matrix of it is made only where a backend needs one."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Int


@struct.dataclass
class AttentionMask:
    """A query reads a key when they share a segment and the key is not later, or both lie in one block.

    Every field is optional, and a field of batch 1 serves all rows.

    Attributes:
        q_index: where the queries stand in order; None counts from 0.
        k_index: where the keys stand in order; None counts from 0.
        q_segments, k_segments: equal ids see each other; 0 is padding, which sees nothing and is seen by nobody.
            Both or neither.
        q_blocks, k_blocks: equal ids >= 0 attend both ways; -1 leaves it to the order. Both or neither.
        causal: whether order matters at all; without it every key of the segment is read.
    """

    q_index: Int[jax.Array, "#B S"] | None = None
    k_index: Int[jax.Array, "#B T"] | None = None
    q_segments: Int[jax.Array, "#B S"] | None = None
    k_segments: Int[jax.Array, "#B T"] | None = None
    q_blocks: Int[jax.Array, "#B S"] | None = None
    k_blocks: Int[jax.Array, "#B T"] | None = None
    causal: bool = struct.field(pytree_node=False, default=True)

    @property
    def in_order(self) -> bool:
        """Whether queries and keys are both counted from 0."""
        return self.q_index is None and self.k_index is None

    def with_indices(self, q_len: int, k_len: int) -> "AttentionMask":
        """The same mask with both indices written out."""
        q_index = jnp.arange(q_len)[None] if self.q_index is None else self.q_index
        k_index = jnp.arange(k_len)[None] if self.k_index is None else self.k_index
        return self.replace(q_index=q_index, k_index=k_index)


FULL = AttentionMask(causal=False)


def self_mask(
    segments: Int[jax.Array, "#B S"] | None = None,
    blocks: Int[jax.Array, "#B S"] | None = None,
    causal: bool = True,
) -> AttentionMask:
    """The mask of a sequence that reads itself."""
    return AttentionMask(q_segments=segments, k_segments=segments, q_blocks=blocks, k_blocks=blocks, causal=causal)


def allowed(mask: AttentionMask, q_len: int, k_len: int) -> Bool[jax.Array, "#B S T"]:
    """The mask as a matrix: [batch, queries, keys], true where a query reads a key."""
    mask = mask.with_indices(q_len, k_len)
    seen = jnp.ones((1, q_len, k_len), bool)
    if mask.causal:
        seen = mask.q_index[:, :, None] >= mask.k_index[:, None, :]
        if mask.q_blocks is not None:
            same_block = mask.q_blocks[:, :, None] == mask.k_blocks[:, None, :]
            seen |= same_block & (mask.q_blocks >= 0)[:, :, None]
    if mask.q_segments is not None:
        same_segment = mask.q_segments[:, :, None] == mask.k_segments[:, None, :]
        seen &= same_segment & (mask.q_segments != 0)[:, :, None]
    return seen
