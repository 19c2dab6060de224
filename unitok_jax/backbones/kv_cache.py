"""The explicit key-value cache of a decoder stack: rows of a static length, each filled up to its own point."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int

from unitok_jax.layers.masks import AttentionMask


@struct.dataclass
class KVCache:
    """Keys and values read so far.

    Attributes:
        keys, values: one array [layers, R, T, K, H] a span; keys are stored after norm and rotation.
        lengths: int32 [R], how many positions of a row count. What lies beyond is never read before it is rewritten,
            so setting a length to 0 starts that row anew.
    """

    keys: tuple[Float[jax.Array, "L R T K H"], ...]
    values: tuple[Float[jax.Array, "L R T K H"], ...]
    lengths: Int[jax.Array, "R"]

    @property
    def size(self) -> int:
        """How many positions a row has room for. What is written beyond is lost."""
        return self.keys[0].shape[2]

    def indices(self, positions: int) -> Int[jax.Array, "R S"]:
        """Where the next `positions` positions of every row go."""
        return self.lengths[:, None] + jnp.arange(positions)

    def mask(self, positions: int, blocks: Int[jax.Array, "R S"] | None = None) -> AttentionMask:
        """What the next positions read: all that is cached up to their own index, and their own block."""
        index = self.indices(positions)
        key_blocks = None
        if blocks is not None:
            key_blocks = write_rows(jnp.full((len(self.lengths), self.size), -1, blocks.dtype), blocks, index)
        return AttentionMask(q_index=index, q_blocks=blocks, k_blocks=key_blocks)


def new_cache(
    spans: tuple[int, ...], rows: int, length: int, kv_heads: int, head_dim: int, dtype=jnp.float32
) -> KVCache:
    """An empty cache for spans of the given numbers of layers."""
    shapes = [(layers, rows, length, kv_heads, head_dim) for layers in spans]
    keys, values = (tuple(jnp.zeros(shape, dtype) for shape in shapes) for _ in range(2))
    return KVCache(keys, values, jnp.zeros(rows, jnp.int32))


def write_rows(memory: jax.Array, new: jax.Array, index: Int[jax.Array, "R S"]) -> jax.Array:
    """Writes `new` [R, S, ...] into `memory` [R, T, ...] at each row's own places; those outside are dropped."""
    return jax.vmap(lambda row, part, at: row.at[at].set(part, mode="drop"))(memory, new, index)


def write_layer(memory: jax.Array, new: jax.Array, layer: jax.Array, index: Int[jax.Array, "R S"]) -> jax.Array:
    """`write_rows` into one layer of `memory` [L, R, T, ...], in place where XLA can."""

    def put(row, part, at):
        return row.at[layer, at].set(part.astype(row.dtype), mode="drop")

    return jax.vmap(put, in_axes=(1, 0, 0), out_axes=1)(memory, new, index)
