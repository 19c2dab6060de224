"""Residual quantisation with codebooks that follow moving averages (RQ-VAE, arXiv 2203.01941), as DualToken has it.

Depth d replaces what the depths before it left over by its nearest row. The codebooks take no gradient: they are state
that `learn` takes and hands back. Draws come from the caller; all arithmetic is float32.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unitok_jax.errors import UserError
from unitok_jax.layers.conv import fold, unfold
from unitok_jax.quantizers import nearest

Map = Float[Array, "batch height width channels"]
Vectors = Float[Array, "n channels"]
Books = Mapping[str, Mapping[str, Any]]  # book_<i>: weight [K, C], count [K] and total [K, C], the moving averages

NOISE = 0.01  # what tells tiled candidates apart, as a share of one over the root of the width
SHARDING = ((r"(^|/)book_\d+/(weight|total)$", (None, None)), (r"(^|/)book_\d+/count$", (None,)))


@dataclasses.dataclass(frozen=True)
class ResidualConfig:
    """A residual quantizer; the defaults are those of DualToken's 384-pixel pixel branch.

    Attributes:
        features: channels of a map that is quantised.
        size: rows of a codebook, K.
        depth: codes a position, D.
        kind: when codebooks move in training. ``rq``: after each depth, so that the next one sees them moved;
            ``rq_ema``: once after all depths. Both are moving averages (the names are the released configs').
        ema_vectors: for ``rq_ema``, what a depth's code averages: ``per_depth``, the residual that it was chosen for;
            ``final_residual``, what the last depth left over, as the released training does by an aliasing slip.
        decay: of the moving averages.
        restart: whether rows whose average count falls below 1 move onto vectors of the batch.
        shared: one codebook for all depths.
        merge: (rows, columns) of the map's positions that one code stands for.
        epsilon: smooths the counts that divide the sums.
    """

    features: int = 32
    size: int = 16384
    depth: int = 8
    kind: Literal["rq", "rq_ema"] = "rq"
    ema_vectors: Literal["per_depth", "final_residual"] = "per_depth"
    decay: float = 0.99
    restart: bool = True
    shared: bool = True
    merge: tuple[int, int] = (1, 1)
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.kind not in ("rq", "rq_ema"):
            raise UserError(f"residual quantizer: kind {self.kind!r}; expected rq or rq_ema")
        if self.ema_vectors not in ("per_depth", "final_residual"):
            raise UserError(
                f"residual quantizer: ema_vectors {self.ema_vectors!r}; expected per_depth or final_residual"
            )

    @property
    def width(self) -> int:
        """Channels of a row of a codebook."""
        return self.features * math.prod(self.merge)

    @property
    def updates(self) -> int:
        """How often a training step moves a codebook."""
        return 1 if self.kind == "rq_ema" and self.shared else self.depth

    def book(self, depth: int) -> str:
        """The name of the codebook of one depth."""
        return f"book_{0 if self.shared else depth}"


class Quantized(NamedTuple):
    """What quantising a map gives.

    Attributes:
        codes: int32 [B, h, w, D].
        latents: float32 [B, H, W, C]: the sum of the rows in value; gradients pass straight to the input.
        sums: float32 [B, h, w, D, C']: the sum of the rows up to each depth, without gradient.
        commitment: float32 [B]: squared distance of the input to each of these sums, mean over depths, positions and
            channels.
    """

    codes: Int[Array, "batch rows columns depth"]
    latents: Map
    sums: Float[Array, "batch rows columns depth width"]
    commitment: Float[Array, " batch"]


class Restarts(NamedTuple):
    """The draws of one training step, one row of arrays for each of its updates.

    Attributes:
        picks: which candidate each code would move onto; candidates are an update's vectors, tiled until they are at
            least as many as codes.
        noise: uniform in [0, 1), for the picked candidates where they are tiled; else None.
    """

    picks: Int[Array, "updates codes"]
    noise: Float[Array, "updates codes width"] | None


def new_books(config: ResidualConfig, key: Key[Array, ""]) -> dict[str, dict[str, Array]]:
    """Unit normal rows, no counts."""
    names = dict.fromkeys(config.book(depth) for depth in range(config.depth))
    keys = jax.random.split(key, len(names))
    return {name: _new_book(config, one) for name, one in zip(names, keys, strict=True)}


def _new_book(config: ResidualConfig, key: Key[Array, ""]) -> dict[str, Array]:
    weight = jax.random.normal(key, (config.size, config.width))
    return {"weight": weight, "count": jnp.zeros(config.size), "total": jnp.array(weight)}


def quantize(config: ResidualConfig, books: Books, x: Map) -> Quantized:
    """The codes of a map, and what they stand for, with straight-through gradients."""
    return _walk(config, books, x, lambda books, depth, vectors, codes: books)[0]


def learn(
    config: ResidualConfig, books: Books, x: Map, restarts: Restarts | None, kept: Float[Array, " batch"] | None = None
) -> tuple[Quantized, Books, Float[Array, ""]]:
    """As `quantize`, while the codebooks move.

    Args:
        config: the quantizer.
        books: its codebooks.
        x: a map, [B, H, W, C]; the averages are over all of it, so over the global batch under jit.
        restarts: from `draw_restarts`; None where the config restarts nothing.
        kept: 1 for the maps that are there, 0 for those that only fill up the batch: these move nothing and are no
            candidates. None: all are there.

    Returns:
        What `quantize` returns (under ``rq`` the later depths see moved codebooks), the moved codebooks, and the share
        of rows that an update found dead (average count below 1, before any restart), mean over the updates.
    """
    cells = x.shape[1] * x.shape[2] // math.prod(config.merge)
    learner = _Learner(config, restarts, None if kept is None else jnp.repeat(kept, cells))
    if config.kind == "rq":
        quantized, books, _ = _walk(config, books, x, learner)
        return quantized, books, learner.dead / config.updates
    quantized, books, seen = _walk(config, books, x, lambda books, *_: books)
    vectors = [seen[-1][2] if config.ema_vectors == "final_residual" else before for before, _, _ in seen]
    codes = [codes for _, codes, _ in seen]
    if config.shared:
        books = learner(books, 0, jnp.concatenate(vectors), jnp.concatenate(codes))
    else:
        for depth in range(config.depth):
            books = learner(books, depth, vectors[depth], codes[depth])
    return quantized, books, learner.dead / config.updates


def _walk(config: ResidualConfig, books: Books, x: Map, moved: Any) -> tuple[Quantized, Books, list[tuple[Any, ...]]]:
    """All depths in turn; ``moved(books, depth, vectors, codes)`` gives the codebooks that the next depth sees.

    Also returns, for each depth, its residuals, its codes and what it left over.
    """
    x = x.astype(jnp.float32)
    cells = fold(x, config.merge)
    flat = cells.reshape(-1, config.width)
    residual = jax.lax.stop_gradient(flat)
    total, seen, sums = jnp.zeros_like(residual), [], []
    for depth in range(config.depth):
        rows = jax.lax.stop_gradient(books[config.book(depth)]["weight"])
        codes = nearest.search(residual, rows)
        chosen = rows[codes]
        books = moved(books, depth, residual, codes)
        total = total + chosen
        seen.append((residual, codes, residual - chosen))
        sums.append(total)
        residual = seen[-1][2]
    shape = (*cells.shape[:3], config.depth)
    partial = jnp.stack(sums, 1)
    distances = jnp.square(flat[:, None] - partial).reshape(len(x), -1).mean(-1)
    latents = unfold(total.reshape(cells.shape), config.merge)
    latents = x + jax.lax.stop_gradient(latents - x)
    all_codes = jnp.stack([codes for _, codes, _ in seen], -1).reshape(shape)
    return Quantized(all_codes, latents, partial.reshape(*shape, config.width), distances), books, seen


class _Learner:
    """Moves codebooks, taking the draws in turn and adding up the shares of dead rows."""

    def __init__(self, config: ResidualConfig, restarts: Restarts | None, kept: Float[Array, " cells"] | None):
        self.config, self.restarts, self.kept = config, restarts, kept
        self.dead, self._turn = jnp.zeros(()), 0

    def __call__(self, books: Books, depth: int, vectors: Vectors, codes: Int[Array, " n"]) -> Books:
        drawn = None
        if self.config.restart:
            if self.restarts is None:
                raise ValueError("this quantizer restarts codes: give the draws")
            drawn = jax.tree.map(lambda draws: draws[self._turn], self.restarts)
        name = self.config.book(depth)
        kept = None if self.kept is None else jnp.tile(self.kept, len(codes) // len(self.kept))
        book, dead = _moved(self.config, books[name], vectors, codes, drawn, kept)
        self.dead, self._turn = self.dead + dead, self._turn + 1
        return {**books, name: book}


def _moved(
    config: ResidualConfig,
    book: Mapping[str, Array],
    vectors: Vectors,
    codes: Int[Array, " n"],
    drawn: Restarts | None,
    kept: Float[Array, " n"] | None,
) -> tuple[dict[str, Array], Float[Array, ""]]:
    average = functools.partial(_average, config.decay)
    weights = jnp.ones(len(codes)) if kept is None else kept
    count = average(book["count"], jax.ops.segment_sum(weights, codes, config.size))
    total = average(book["total"], jax.ops.segment_sum(vectors * weights[:, None], codes, config.size))
    dead = count < 1
    if drawn is not None:
        candidates = vectors[_places(drawn.picks, len(vectors), kept)]
        if drawn.noise is not None:
            candidates = candidates + drawn.noise * (NOISE / math.sqrt(config.width))
        total, count = jnp.where(dead[:, None], candidates, total), jnp.where(dead, 1.0, count)
    everything = count.sum()
    smoothed = everything * (count + config.epsilon) / (everything + config.size * config.epsilon)
    return {"weight": total / smoothed[:, None], "count": count, "total": total}, dead.mean()


def _places(picks: Int[Array, " codes"], vectors: int, kept: Float[Array, " n"] | None) -> Int[Array, " codes"]:
    """Which vector each pick means: of the tiled candidates, or of those alone that are there."""
    if kept is None:
        return picks % vectors
    so_far = jnp.cumsum(kept > 0)
    return jnp.searchsorted(so_far, picks % jnp.maximum(so_far[-1], 1) + 1)


def _average(decay: float, old: Array, new: Array) -> Array:
    return decay * old + (1 - decay) * new


def draw_restarts(config: ResidualConfig, key: Key[Array, ""], cells: int) -> Restarts | None:
    """The draws of one training step over `cells` positions of codes; None where the config restarts nothing."""
    if not config.restart:
        return None
    vectors = cells * config.depth if config.kind == "rq_ema" and config.shared else cells
    candidates = vectors * -(-config.size // vectors)
    pick_key, noise_key = jax.random.split(key)
    keys = jax.random.split(pick_key, config.updates)
    picks = jnp.stack([nearest.draw_picks(one, candidates, config.size) for one in keys])
    if vectors >= config.size:
        return Restarts(picks, None)
    return Restarts(picks, jax.random.uniform(noise_key, (*picks.shape, config.width)))


def lookup(config: ResidualConfig, books: Books, codes: Int[Array, "*n depth"]) -> Float[Array, "*n depth width"]:
    """The row of each code, without gradient; their sum over depths is what a position stands for."""
    rows = [books[config.book(depth)]["weight"][codes[..., depth]] for depth in range(config.depth)]
    return jax.lax.stop_gradient(jnp.stack(rows, -2).astype(jnp.float32))


def embed(config: ResidualConfig, books: Books, codes: Int[Array, "batch rows columns depth"]) -> Map:
    """The map, [B, H, W, C], that codes stand for."""
    return unfold(lookup(config, books, codes).sum(-2), config.merge)
