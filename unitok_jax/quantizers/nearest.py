"""Nearest-row vector quantisation (VQ-VAE): search, straight-through, losses, usage, restarts. Pure functions.

All distances and losses are float32. Draws come from the caller.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from clu import metrics
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from unitok_jax.layers.norms import unit_length

Vectors = Float[Array, "*batch features"]
Codes = Int[Array, "*batch"]
Codebook = Float[Array, "codes features"]


class Quantized(NamedTuple):
    """What `quantize` returns.

    Attributes:
        codes: int32 [...], indices of the nearest rows.
        latents: float32 [..., C]: the rows in value; gradients pass straight to the input.
        source: float32 [..., C], what was compared with the rows: the input, normalised under `l2_norm`.
        rows: float32 [..., C], the rows themselves; gradients pass to the codebook.
    """

    codes: Codes
    latents: Vectors
    source: Vectors
    rows: Vectors


def quantize(latents: Vectors, codebook: Codebook, *, l2_norm: bool = False, chunk: int = 4096) -> Quantized:
    """Replaces each vector by the nearest row of the codebook, with straight-through gradients.

    Args:
        latents: [..., C].
        codebook: [K, C].
        l2_norm: compare and look up normalised vectors (LlamaGen).
        chunk: rows compared at once.
    """
    source = latents.astype(jnp.float32)
    if l2_norm:
        source = unit_length(source)
    rows = unit_length(codebook) if l2_norm else codebook.astype(jnp.float32)
    codes = search(jax.lax.stop_gradient(source), jax.lax.stop_gradient(rows), chunk=chunk)
    chosen = rows[codes]
    return Quantized(codes, source + jax.lax.stop_gradient(chosen - source), source, chosen)


def lookup(codebook: Codebook, codes: Codes, *, l2_norm: bool = False) -> Vectors:
    """The rows, float32 [..., C], that codes stand for; normalised under `l2_norm`."""
    rows = codebook[codes].astype(jnp.float32)
    return unit_length(rows) if l2_norm else rows


def search(queries: Vectors, rows: Codebook, *, chunk: int = 4096) -> Codes:
    """Indices of the rows nearest in Euclidean distance; the lowest index wins a tie.

    The codebook is walked in chunks, so that no array larger than [n, chunk] is made and a sharded batch of queries
    stays where it is.

    Returns:
        int32 [...].
    """
    queries, rows = queries.astype(jnp.float32), rows.astype(jnp.float32)
    norms = jnp.square(rows).sum(-1)
    count = len(rows)
    if count <= chunk:
        return _distances(queries, rows, norms).argmin(-1).astype(jnp.int32)
    pad = -count % chunk
    tiles = jnp.pad(rows, ((0, pad), (0, 0))).reshape(-1, chunk, rows.shape[-1])
    tile_norms = jnp.pad(norms, (0, pad), constant_values=jnp.inf).reshape(-1, chunk)

    def step(best, tile):
        start, block, block_norms = tile
        distances = _distances(queries, block, block_norms)
        nearest, index = distances.min(-1), distances.argmin(-1).astype(jnp.int32)
        closer = nearest < best[0]  # strict: an earlier chunk keeps its tie
        return (jnp.where(closer, nearest, best[0]), jnp.where(closer, index + start, best[1])), None

    starts = jnp.arange(len(tiles), dtype=jnp.int32) * chunk
    shape = queries.shape[:-1]
    first = (jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32))
    return jax.lax.scan(step, first, (starts, tiles, tile_norms))[0][1]


def _distances(queries: Vectors, rows: Codebook, norms: Array) -> Array:
    """Squared distances less the queries' own squared norms, which no comparison between rows needs."""
    return norms - 2 * jnp.einsum("...c,kc->...k", queries, rows, precision=jax.lax.Precision.HIGHEST)


def codebook_loss(q: Quantized) -> Float[Array, "*batch"]:
    """Squared distance, mean over channels, that moves the rows towards the latents; one number a latent."""
    return jnp.square(q.rows - jax.lax.stop_gradient(q.source)).mean(-1)


def commitment_loss(q: Quantized) -> Float[Array, "*batch"]:
    """Squared distance, mean over channels, that moves the latents towards their rows; one number a latent.

    LlamaGen trains ``codebook_loss + 0.25 * commitment_loss``; taming's legacy form, which Chameleon keeps, has the
    weight on the other term: ``0.25 * codebook_loss + commitment_loss``.
    """
    return jnp.square(q.source - jax.lax.stop_gradient(q.rows)).mean(-1)


def entropy_loss(source: Vectors, rows: Codebook, *, temperature: float = 0.01, chunk: int = 1024) -> Float[Array, ""]:
    """Makes each latent sure of its code and all codes equally frequent (LlamaGen's entropy term).

    With soft codes ``softmax(-squared distance / temperature)``: their mean entropy less the entropy of their mean.

    Args:
        source: [..., C], the latents as they are compared (`Quantized.source`); the mean is over all of them.
        rows: [K, C], the codebook as it is compared (normalised under `l2_norm`).
        temperature: of the soft codes.
        chunk: latents whose soft codes are held at once.
    """
    vectors, rows = source.astype(jnp.float32).reshape(-1, source.shape[-1]), rows.astype(jnp.float32)
    count, norms = len(vectors), jnp.square(rows).sum(-1)
    chunk = min(chunk, count)
    tiles = jnp.pad(vectors, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, vectors.shape[-1])
    real = (jnp.arange(tiles.shape[0] * chunk) < count).reshape(-1, chunk, 1)

    @jax.checkpoint
    def step(sums, tile):
        block, kept = tile
        logs = jax.nn.log_softmax(-_distances(block, rows, norms) / temperature)
        soft = jnp.exp(logs) * kept
        return (sums[0] + soft.sum(0), sums[1] - (soft * logs).sum()), None

    (total, entropy), _ = jax.lax.scan(step, (jnp.zeros(len(rows)), jnp.zeros(())), (tiles, real))
    mean = total / count
    return entropy / count + (mean * jnp.log(mean + 1e-5)).sum()


def histogram(codes: Codes, size: int) -> Int[Array, "codes"]:
    """How often each of `size` codes occurs."""
    return jnp.zeros(size, jnp.int32).at[codes.reshape(-1)].add(1)


def usage(counts: Int[Array, "*books codes"]) -> Float[Array, "*books"]:
    """Share of the codes that occur."""
    return (counts > 0).mean(-1)


def perplexity(counts: Int[Array, "*books codes"]) -> Float[Array, "*books"]:
    """Exponential of the entropy of the codes' frequencies: how many codes are in effect in use."""
    share = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum(-1))


def spread(counts: Int[Array, "*books codes"]) -> Float[Array, "*books"]:
    """`perplexity` as a share of the most that it could be: all codes, or as many as were taken if these are fewer.

    1 where the codes are as varied as can be, near 0 where a codebook collapses, however few were counted.
    """
    return perplexity(counts) / jnp.clip(counts.sum(-1), 1, counts.shape[-1])


def code_metrics(counts: Int[Array, "*books codes"], name: str) -> dict[str, metrics.Metric]:
    """``<name>/usage``, ``<name>/perplexity`` and ``<name>/spread`` of a codebook, or of the worst of several."""
    made = {"usage": CodeUsage, "perplexity": CodePerplexity, "spread": CodeSpread}
    return {f"{name}/{figure}": kind(counts) for figure, kind in made.items()}


@struct.dataclass
class CodeUsage(metrics.Metric):
    """`usage` over everything merged; the least of several codebooks'."""

    counts: jax.Array

    @classmethod
    def empty(cls) -> "CodeUsage":
        return cls(jnp.zeros((), jnp.int32))

    def merge(self, other: "CodeUsage") -> "CodeUsage":
        return type(self)(self.counts + other.counts)

    def compute(self) -> Float[Array, ""]:
        return usage(self.counts).min()


@struct.dataclass
class CodePerplexity(CodeUsage):
    """`perplexity` over everything merged; the least of several codebooks'."""

    def compute(self) -> Float[Array, ""]:
        return perplexity(self.counts).min()


@struct.dataclass
class CodeSpread(CodeUsage):
    """`spread` over everything merged; the least of several codebooks'."""

    def compute(self) -> Float[Array, ""]:
        return spread(self.counts).min()


def replace_rows(
    codebook: Codebook, dead: Bool[Array, "codes"], latents: Vectors, picks: Int[Array, "codes"]
) -> Codebook:
    """Moves the dead rows onto latents: ``latents[picks]``, all rows alike when all are dead (initialisation).

    Args:
        codebook: [K, C].
        dead: rows to move, such as ``histogram(...) == 0`` over the last steps.
        latents: [..., C], encoder outputs of a batch.
        picks: which latent each row would take, see `draw_picks`.
    """
    return jnp.where(dead[:, None], latents.reshape(-1, latents.shape[-1])[picks].astype(codebook.dtype), codebook)


def draw_picks(key: Key[Array, ""], latents: int, size: int) -> Int[Array, "codes"]:
    """`size` indices below `latents`, without repeats where there are enough."""
    return jax.random.choice(key, latents, (size,), replace=latents < size)
