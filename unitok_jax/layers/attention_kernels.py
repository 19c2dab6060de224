"""The fused attention kernels of other people: splash attention on TPUs, cuDNN's flash attention on GPUs."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from unitok_jax.errors import UserError
from unitok_jax.layers.attention_context import context_shards
from unitok_jax.layers.masks import AttentionMask, Keys, Queries
from unitok_jax.parallel.mesh import BATCH_AXES, dividing

SPLASH_BLOCKS = (512, 256, 128)  # the largest that divides the length


def cudnn_reads(mask: AttentionMask) -> bool:
    """Whether a mask is one of those that cuDNN's flash attention takes through JAX: all, or order alone.

    Packed rows are not among them. JAX's public function takes lengths, one segment a row, and any other mask as a
    matrix [B, 1, S, T], quadratic in memory; the offsets of segments are private to `jax._src` (jax-ml/jax#29731), and
    with grouped heads wrong in the versions that we run on (jax-ml/jax#39521).
    """
    if mask.q_segments is not None and (mask.packed or not mask.causal):
        return False
    return not mask.causal or mask.reach == 0


def cudnn_attention(q: Queries, k: Keys, v: Keys, mask: AttentionMask, scale: float) -> Queries:
    """cuDNN's flash attention. In the order of the row no query reads the padding, which comes last.

    Raises:
        UserError: for a mask that it does not take.
    """
    if not cudnn_reads(mask):
        raise UserError("attention backend: cudnn takes rows of one example, in order, without blocks; take auto")
    out = jax.nn.dot_product_attention(q, k, v, is_causal=mask.causal, scale=scale, implementation="cudnn")
    return _without_padding(out, mask)


def splash_attention(
    q: Queries, k: Keys, v: Keys, mask: AttentionMask, scale: float, interpret: bool = False
) -> Queries:
    """Splash attention, for masks of order and segments; a mesh in context shards batch, heads and queries."""
    head_dim = q.shape[-1]
    lanes = -(-head_dim // 128) * 128
    q = (q * scale).astype(q.dtype)
    q, k, v = (jnp.pad(x, [(0, 0)] * 3 + [(0, lanes - head_dim)]).transpose(0, 2, 1, 3) for x in (q, k, v))
    segments = None
    if mask.q_segments is not None and mask.k_segments is not None:
        ids = (mask.q_segments, mask.k_segments)
        segments = splash.SegmentIds(*(jnp.broadcast_to(x, (len(q), x.shape[1])).astype(jnp.int32) for x in ids))
    cut = context_shards(q.shape[2], k.shape[2], mask)
    cut = cut if q.shape[2] // cut % SPLASH_BLOCKS[-1] == 0 else 1
    out = _over_mesh(mask.causal, interpret, cut, q, k, v, segments)
    return _without_padding(out.transpose(0, 2, 1, 3)[..., :head_dim], mask)


def _without_padding(out: jax.Array, mask: AttentionMask) -> jax.Array:
    """Kernels let padding read padding; here it reads nothing."""
    if mask.q_segments is None:
        return out
    return jnp.where((mask.q_segments != 0)[:, :, None, None], out, 0)


@functools.lru_cache(maxsize=32)
def _splash_kernel(heads: int, q_len: int, k_len: int, causal: bool, interpret: bool, shards: int = 1):
    one = splash.CausalMask((q_len, k_len)) if causal else splash.FullMask((q_len, k_len))
    q_block, k_block = (next(b for b in SPLASH_BLOCKS if n % b == 0) for n in (q_len // shards, k_len))
    sizes = splash.BlockSizes(
        block_q=q_block,
        block_kv=k_block,
        block_q_dkv=q_block,
        block_kv_dkv=k_block,
        block_q_dq=q_block,
        block_kv_dq=k_block,
    )
    build = functools.partial(
        splash.make_splash_mha,
        splash.MultiHeadMask([one] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=shards,
        interpret=interpret,
    )
    # Its arrays are made eagerly. In a thread of its own neither a trace nor a mesh of absent devices is in the way.
    with ThreadPoolExecutor(1) as apart:
        return jax.tree.map(np.asarray, apart.submit(build).result())


def _over_mesh(causal: bool, interpret: bool, cut: int, q, k, v, segments):
    """Runs the kernel on each device's rows, heads and queries: XLA cannot partition a Pallas call by itself."""
    lengths = q.shape[2], k.shape[2]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return jax.vmap(_splash_kernel(q.shape[1], *lengths, causal, interpret))(q, k, v, segments)
    batch = dividing(BATCH_AXES, (q.shape[0],))
    heads = dividing(("tensor",), (q.shape[1], k.shape[1]))
    context = "context" if cut > 1 else None
    own = q.shape[1] // math.prod(mesh.shape[name] for name in heads)
    kernel = _splash_kernel(own, *lengths, causal, interpret, cut)
    queries, keys = P(batch, heads, context, None), P(batch, heads, None, None)
    spec = None if segments is None else segments._replace(q=P(batch, context), kv=P(batch, None))
    mine = kernel.manual_sharding_spec(NamedSharding(mesh, P(None, context)))

    def local(kernel, q, k, v, segments):
        return jax.vmap(kernel)(q, k, v, segments)

    specs = mine, queries, keys, keys, spec
    return jax.shard_map(local, in_specs=specs, out_specs=queries, check_vma=False)(kernel, q, k, v, segments)
