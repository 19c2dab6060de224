"""Attention over rows whose positions are cut over the mesh axis ``context``.

Each device keeps its own queries and reads all keys and values, which XLA gathers before and whose gradients it sums
after: one all-gather and one reduce-scatter a layer. A ring would send the same bytes in as many rounds as there are
devices; it saves memory for the keys, which grouped heads make small, and no traffic.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from unitok_jax.layers.masks import AttentionMask, Keys, Queries
from unitok_jax.parallel.mesh import BATCH_AXES, dividing

Attend = Callable[[Queries, Keys, Keys, AttentionMask, float], Queries]


def context_shards(q_len: int, k_len: int, mask: AttentionMask) -> int:
    """Into how many pieces the positions of a row that reads itself are cut; 1 where they are not."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else mesh.shape.get("context", 1)
    return shards if q_len == k_len and q_len % shards == 0 and mask.in_order else 1


def attend_over_context(run: Attend, q: Queries, k: Keys, v: Keys, mask: AttentionMask, scale: float) -> Queries:
    """Runs `run` on each device's rows, heads and queries, against the keys of the whole row."""
    batch = dividing(BATCH_AXES, (q.shape[0],))
    heads = dividing(("tensor",), (q.shape[2], k.shape[2]))
    mask = mask.replace(q_index=jnp.arange(q.shape[1], dtype=jnp.int32)[None])

    def place(name: str, x: jax.Array) -> P:
        rows = batch if x.shape[0] == q.shape[0] and x.shape[0] > 1 else None
        return P(rows, "context" if name.startswith("q_") else None)

    def local(q, k, v, vectors):
        return run(q, k, v, mask.replace(**vectors), scale)

    queries, keys = P(batch, "context", heads, None), P(batch, None, heads, None)
    specs = queries, keys, keys, {name: place(name, x) for name, x in mask.vectors.items()}
    return jax.shard_map(local, in_specs=specs, out_specs=queries, check_vma=False)(q, k, v, mask.vectors)
