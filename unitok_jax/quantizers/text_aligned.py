"""Tar's text-aligned quantiser: codes are a language model's word vectors, put through one learned linear map.

The word vectors stay as they are; the map alone learns, so all codes move together (SimVQ). Source: Tar, arXiv
2506.18898, section 3.1, equations 1 to 3, and the arguments stored in ``ta_tok.pth``. Pure functions; distances and
losses are float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unitok_jax.layers.norms import unit_length
from unitok_jax.quantizers.nearest import Codebook, Codes, Quantized, Vectors

CHUNK = 4096  # codes compared at a time
EXACT = jax.lax.Precision.HIGHEST


def effective_codebook(
    words: Codebook, kernel: Float[Array, "features out"], bias: Float[Array, "out"], *, l2_norm: bool = True
) -> Float[Array, "codes out"]:
    """The codes that are compared, float32: ``words @ kernel + bias``, each row of unit length under `l2_norm`.

    The paper has no bias and no normalisation; the released weights have both.
    """
    rows = jnp.matmul(words.astype(jnp.float32), kernel.astype(jnp.float32), precision=EXACT)
    rows = rows + bias.astype(jnp.float32)
    return unit_length(rows) if l2_norm else rows


def scores(queries: Vectors, rows: Codebook, *, l2_norm: bool = True) -> Float[Array, "*batch codes"]:
    """How well each code fits, the higher the better: cosines, or negative squared distances without `l2_norm`.

    The distances lack the queries' own squared norms, which no comparison between codes needs.
    """
    products = jnp.einsum("...c,kc->...k", queries, rows, precision=EXACT)
    return products if l2_norm else 2 * products - jnp.square(rows).sum(-1)


def search(
    queries: Vectors,
    rows: Codebook,
    *,
    l2_norm: bool = True,
    key: Key[Array, ""] | None = None,
    temperature: float = 0.03,
    chunk: int = CHUNK,
) -> Codes:
    """The best code of each query, or, with a key, one drawn from ``softmax(scores / temperature)``.

    The codebook is walked in chunks, chunk j being the codes that leave the remainder j: every shard of a codebook
    that is sharded over its rows has its part in each, and no array larger than [queries, chunk] is made. A draw adds
    Gumbel noise to every score, which is the same as drawing from the softmax. The lowest index wins a tie.

    Args:
        queries: [..., C], normalised under `l2_norm`.
        rows: [K, C], from `effective_codebook`.
        l2_norm: whether scores are cosines.
        key: draws; None takes the best.
        temperature: of the draw.
        chunk: codes compared at a time.

    Returns:
        int32 [...].
    """
    flat = queries.astype(jnp.float32).reshape(-1, queries.shape[-1])
    chunks = -(-len(rows) // chunk)
    size = -(-len(rows) // chunks)
    tiles = jnp.pad(rows.astype(jnp.float32), ((0, size * chunks - len(rows)), (0, 0))).reshape(size, chunks, -1)

    def visit(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        ids = jnp.arange(size) * chunks + number
        tile = jax.lax.dynamic_index_in_dim(tiles, number, 1, keepdims=False)
        found = scores(flat, tile, l2_norm=l2_norm)
        if key is not None:
            found = found / temperature + jax.random.gumbel(jax.random.fold_in(key, number), found.shape)
        found = jnp.where(ids < len(rows), found, -jnp.inf)
        top, index = found.max(-1), ids[found.argmax(-1)]
        better = (top > best[0]) | ((top == best[0]) & (index < best[1]))
        return (jnp.where(better, top, best[0]), jnp.where(better, index, best[1])), None

    start = jnp.full(len(flat), -jnp.inf), jnp.zeros(len(flat), jnp.int32)
    (_, codes), _ = jax.lax.scan(visit, start, jnp.arange(chunks))
    return codes.astype(jnp.int32).reshape(queries.shape[:-1])


def source(latents: Vectors, *, l2_norm: bool = True) -> Vectors:
    """What is compared with the codes: the latents in float32, of unit length under `l2_norm`."""
    return unit_length(latents) if l2_norm else latents.astype(jnp.float32)


def look_up(
    words: Codebook,
    kernel: Float[Array, "features out"],
    bias: Float[Array, "out"],
    codes: Codes,
    *,
    l2_norm: bool = True,
) -> Float[Array, "*batch out"]:
    """The rows, float32 [..., C], that codes stand for, without making the whole effective codebook."""
    chosen = words[codes]
    rows = effective_codebook(chosen.reshape(-1, chosen.shape[-1]), kernel, bias, l2_norm=l2_norm)
    return rows.reshape(*codes.shape, -1)


def straight_through(codes: Codes, compared: Vectors, rows: Vectors) -> Quantized:
    """The quantised vectors, gradients passing straight to what was compared and, by `rows`, to the linear map.

    Args:
        codes: the codes taken, from `search` or forced.
        compared: see `source`.
        rows: what the codes stand for, see `look_up`.

    `nearest.commitment_loss` and `nearest.codebook_loss` are its losses: equation 3 adds them with equal weights, the
    released arguments weigh them 0.25 and 1.
    """
    return Quantized(codes, compared + jax.lax.stop_gradient(rows - compared), compared, rows)


@partial(jax.jit, static_argnames=("metric", "chunk"))
def mean_distances(words: Codebook, metric: str = "euclidean", chunk: int = 1024) -> Float[Array, "codes"]:
    """Mean distance of every word vector to all of them, float32, `chunk` vectors at a time.

    Args:
        words: [V, C], an LLM's embedding table without rows that stand for nothing.
        metric: ``euclidean``, or ``cosine`` (1 less the cosine).
        chunk: vectors compared with all others at once.
    """
    rows = unit_length(words) if metric == "cosine" else words.astype(jnp.float32)
    squares = jnp.square(rows).sum(-1)
    tiles = jnp.pad(rows, ((0, -len(rows) % chunk), (0, 0))).reshape(-1, chunk, rows.shape[-1])

    def visit(tile: Array) -> Array:
        products = jnp.matmul(tile, rows.T, precision=EXACT)
        if metric == "cosine":
            return (1 - products).mean(-1)
        distances = jnp.square(tile).sum(-1)[:, None] + squares - 2 * products
        return jnp.sqrt(jnp.maximum(distances, 0)).mean(-1)

    return jax.lax.map(visit, tiles).reshape(-1)[: len(rows)]


def choose_words(
    words: Codebook, size: int, *, metric: str = "euclidean", largest: bool = True, chunk: int = 1024
) -> Int[Array, "size"]:
    """Ids, ascending, of the `size` word vectors that become the codes.

    The paper takes words "by average distance to the others" and says no more; that these are the largest Euclidean
    distances is an assumption, hence the options.
    """
    distances = mean_distances(words, metric, chunk)
    return jnp.sort(jax.lax.top_k(distances if largest else -distances, size)[1])
