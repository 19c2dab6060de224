"""The fused attention kernels of other people: splash attention on TPUs, cuDNN's flash attention on GPUs."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import PartitionSpec as P

from unitok_jax.layers.masks import AttentionMask, allowed

SPLASH_BLOCKS = (512, 256, 128)  # the largest that divides the length


def cudnn_attention(q, k, v, mask: AttentionMask, scale: float) -> jax.Array:
    """cuDNN's flash attention. Anything but plain or causal order goes in as one [B, 1, S, T] mask for all heads."""
    plain = mask.q_segments is None and (not mask.causal or (mask.in_order and mask.q_blocks is None))
    seen = None if plain else allowed(mask, q.shape[1], k.shape[1])[:, None]
    out = jax.nn.dot_product_attention(
        q, k, v, mask=seen, is_causal=plain and mask.causal, scale=scale, implementation="cudnn"
    )
    return _without_padding(out, mask)


def splash_attention(q, k, v, mask: AttentionMask, scale: float, interpret: bool = False) -> jax.Array:
    """Splash attention, for masks of order and segments; a mesh in context shards batch and heads."""
    head_dim = q.shape[-1]
    lanes = -(-head_dim // 128) * 128
    q = (q * scale).astype(q.dtype)
    q, k, v = (jnp.pad(x, [(0, 0)] * 3 + [(0, lanes - head_dim)]).transpose(0, 2, 1, 3) for x in (q, k, v))
    segments = None
    if mask.q_segments is not None:
        ids = (mask.q_segments, mask.k_segments)
        segments = splash.SegmentIds(*(jnp.broadcast_to(x, (len(q), x.shape[1])).astype(jnp.int32) for x in ids))
    out = _over_mesh(partial(_splash_rows, mask.causal, interpret), q, k, v, segments)
    return _without_padding(out.transpose(0, 2, 1, 3)[..., :head_dim], mask)


def _without_padding(out: jax.Array, mask: AttentionMask) -> jax.Array:
    """Kernels let padding read padding; here it reads nothing."""
    if mask.q_segments is None:
        return out
    return jnp.where((mask.q_segments != 0)[:, :, None, None], out, 0)


def _splash_rows(causal: bool, interpret: bool, q, k, v, segments):
    kernel = _splash_kernel(q.shape[1], q.shape[2], k.shape[2], causal, interpret)
    return jax.vmap(kernel)(q, k, v, segments)


@functools.lru_cache(maxsize=32)
def _splash_kernel(heads: int, q_len: int, k_len: int, causal: bool, interpret: bool):
    one = splash.CausalMask((q_len, k_len)) if causal else splash.FullMask((q_len, k_len))
    q_block, k_block = (next(b for b in SPLASH_BLOCKS if n % b == 0) for n in (q_len, k_len))
    sizes = splash.BlockSizes(
        block_q=q_block,
        block_kv=k_block,
        block_q_dkv=q_block,
        block_kv_dkv=k_block,
        block_q_dq=q_block,
        block_kv_dq=k_block,
    )
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mha(
            splash.MultiHeadMask([one] * heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )


def _over_mesh(function, q, k, v, segments):
    """Runs `function` on each device's rows and heads: XLA cannot partition a Pallas call by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(q, k, v, segments)
    batch = _dividing(mesh, ("data", "fsdp"), (q.shape[0],))
    heads = _dividing(mesh, ("tensor",), (q.shape[1], k.shape[1]))
    qkv, rows = P(batch, heads, None, None), P(batch, None)
    spec = None if segments is None else splash.SegmentIds(rows, rows)
    return jax.shard_map(function, in_specs=(qkv, qkv, qkv, spec), out_specs=qkv, check_vma=False)(q, k, v, segments)


def _dividing(mesh, names: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The leading ones of the mesh axes `names` whose product divides all `sizes`; the others see copies."""
    kept, product = (), 1
    for name in names:
        product *= mesh.shape.get(name, 1)
        if name in mesh.shape and all(size % product == 0 for size in sizes):
            kept += (name,)
    return kept
