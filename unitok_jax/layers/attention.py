"""Softmax attention: one function, several backends, chosen by platform and shape.

``xla`` makes the score matrix (short rows, decode steps); ``blockwise`` never holds more of it than one pair of
blocks (anywhere); ``splash`` and ``cudnn`` are the fused kernels of TPUs and GPUs.
"""

import math

import jax
import jax.numpy as jnp

from unitok_jax.errors import UserError
from unitok_jax.layers.attention_blockwise import blockwise_attention
from unitok_jax.layers.attention_context import attend_over_context, context_shards
from unitok_jax.layers.attention_kernels import cudnn_attention, cudnn_reads, splash_attention
from unitok_jax.layers.compiled_for import current_platform
from unitok_jax.layers.masks import AttentionMask, Keys, Queries, allowed
from unitok_jax.settings import near

BACKENDS = ("xla", "blockwise", "cudnn", "splash")
SCOPE = "attention_by_"  # with the backend behind it names what it computes, in profiles and compiled programs
MATERIALISE = 1024 * 1024  # scores per head up to which the plain form is used
LOWEST = -1e30  # finite, so that a row that sees nothing has no NaN in its gradient


def attention(
    q: Queries, k: Keys, v: Keys, mask: AttentionMask, *, scale: float | None = None, backend: str = "auto"
) -> Queries:
    """Softmax attention; head n of the N query heads reads key-value head ``n // (N / K)``.

    Scores and softmax are float32. A query that sees no key gives zeros and takes part in no gradient.

    Args:
        q, k, v: queries [B, S, N, H], keys and values [B, T, K, H]; K divides N.
        mask: which query reads which key.
        scale: multiplies the scores; ``1 / sqrt(H)`` by default.
        backend: one of `BACKENDS`, or ``auto``.

    Raises:
        UserError: for an unknown backend, or a mask that ``cudnn`` does not take.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if backend == "auto":
        backend = choose_backend(current_platform(), q.shape, k.shape[1], mask, q.dtype)
    if backend not in _RUN:
        raise UserError(f"attention backend: no backend {backend!r}.{near(backend, ('auto', *BACKENDS))}")
    with jax.named_scope(f"{SCOPE}{backend}"):
        if backend == "blockwise" and context_shards(q.shape[1], k.shape[1], mask) > 1:
            # by hand: XLA cuts the plain form by itself, splash its own mask, and cuDNN has no offset into the order
            return attend_over_context(blockwise_attention, q, k, v, mask, scale)
        return _RUN[backend](q, k, v, mask, scale)


def choose_backend(
    platform: str, q_shape: tuple[int, ...], kv_len: int, mask: AttentionMask, dtype=jnp.bfloat16
) -> str:
    """The backend for queries [B, S, N, H] against `kv_len` keys on ``cpu``, ``gpu`` or ``tpu``."""
    _, q_len, _, head_dim = q_shape
    if q_len * kv_len <= MATERIALISE:
        return "xla"
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits = half and head_dim % 8 == 0 and head_dim <= 128 and q_len % 2 == kv_len % 2 == 0
    if platform == "gpu" and fits and cudnn_reads(mask) and context_shards(q_len, kv_len, mask) == 1:
        return "cudnn"
    ordered = not mask.causal or mask.reach == 0
    if platform == "tpu" and ordered and q_len % 128 == kv_len % 128 == 0:
        return "splash"
    return "blockwise"


def xla_attention(q: Queries, k: Keys, v: Keys, mask: AttentionMask, scale: float) -> Queries:
    """The plain form: scores [B, K, N/K, S, T] in memory."""
    batch, q_len, heads, head_dim = q.shape
    k_len, kv_heads = k.shape[1:3]
    # heads lead, so that both products are plain batched matrix products
    q = q.reshape(batch, q_len, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    scores = jnp.einsum("bkgsh,bkth->bkgst", q, k, preferred_element_type=jnp.float32) * scale
    seen = allowed(mask, q_len, k_len)
    scores = jnp.where(seen[:, None, None], scores, LOWEST)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgst,bkth->bkgsh", weights, v)
    out = out.transpose(0, 3, 1, 2, 4).reshape(batch, q_len, heads, head_dim)
    if mask.q_segments is None:
        return out
    return jnp.where(seen.any(-1)[:, :, None, None], out, 0)


_RUN = {"xla": xla_attention, "blockwise": blockwise_attention, "cudnn": cudnn_attention, "splash": splash_attention}
