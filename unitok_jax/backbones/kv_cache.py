"""The explicit key-value cache of a decoder stack: rows of a static length, each filled up to its own point."""

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from unitok_jax.layers.masks import AttentionMask
from unitok_jax.parallel.mesh import BATCH_AXES, dividing


class KVCache(struct.PyTreeNode):
    """Keys and values read so far.

    Attributes:
        keys, values: one array [layers, R, K, T, H] a span, laid out as attention reads it; keys are stored after
            norm and rotation.
        lengths: int32 [R], how many positions of a row count. What lies beyond is never read before it is rewritten,
            so setting a length to 0 starts that row anew.
    """

    keys: tuple[Float[jax.Array, "_ R K T H"], ...]
    values: tuple[Float[jax.Array, "_ R K T H"], ...]
    lengths: Int[jax.Array, "R"]

    @property
    def size(self) -> int:
        """How many positions a row has room for. What is written beyond is lost."""
        return self.keys[0].shape[3]

    def indices(self, positions: int) -> Int[jax.Array, "R S"]:
        """Where the next `positions` positions of every row go."""
        return self.lengths[:, None] + jnp.arange(positions)

    def mask(self, positions: int, blocks: Int[jax.Array, "R S"] | None = None) -> AttentionMask:
        """What the next positions read: all that is cached up to their own index, and their own block."""
        index = self.indices(positions)
        key_blocks = None
        if blocks is not None:
            causal = jnp.full((len(index), self.size), -1, blocks.dtype)
            key_blocks = causal.at[_rows(index), index].set(blocks, mode="drop")
        return AttentionMask(q_index=index, q_blocks=blocks, k_blocks=key_blocks)


def new_cache(
    spans: tuple[int, ...], rows: int, length: int, kv_heads: int, head_dim: int, dtype=jnp.float32
) -> KVCache:
    """An empty cache for spans of the given numbers of layers; a mesh cuts rows and heads as far as they divide."""
    shapes = [(layers, rows, kv_heads, length, head_dim) for layers in spans]
    keys, values = (tuple(_placed(jnp.zeros(shape, dtype)) for shape in shapes) for _ in range(2))
    return KVCache(keys, values, jnp.zeros(rows, jnp.int32))


def _placed(memory: Float[jax.Array, "L R K T H"]) -> Float[jax.Array, "L R K T H"]:
    """Lays rows over the axes of the batch and heads over `tensor`, as attention has them."""
    if jax.sharding.get_abstract_mesh().empty:
        return memory
    rows, heads = dividing(BATCH_AXES, (memory.shape[1],)), dividing(("tensor",), (memory.shape[2],))
    return jax.lax.with_sharding_constraint(memory, P(None, rows, heads, None, None))


def write_layer(
    memory: Float[jax.Array, "L R K T H"],
    new: Float[jax.Array, "R S K H"],
    layer: Int[jax.Array, ""],
    index: Int[jax.Array, "R S"],
) -> Float[jax.Array, "L R K T H"]:
    """Writes `new` into one layer at each row's own places; those outside are dropped.

    One scatter into the whole array: XLA does it in place, where a write into a layer's slice would copy the span.
    """
    return memory.at[layer, _rows(index), :, index].set(new.astype(memory.dtype), mode="drop")


def _rows(index: jax.Array) -> jax.Array:
    return jnp.arange(len(index))[:, None]
