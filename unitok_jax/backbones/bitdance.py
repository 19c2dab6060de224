"""BitDance: a causal transformer over binary tokens whose diffusion head says the next one, or the next few at once.

Source: arXiv 2602.14041 and the released class-conditional models. The same network, small and without classes, is
the prior that UniWeTok's tokenizer is trained against (arXiv 2602.14178, section 3.1).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones import flow_head
from unitok_jax.backbones.decoder_block import Reading, Stack
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.backbones.flow_head import FlowHead, FlowHeadConfig
from unitok_jax.backbones.grid_transformer import SHARDING as BLOCK_SHARDING
from unitok_jax.backbones.grid_transformer import block_config
from unitok_jax.backbones.kv_cache import KVCache, new_cache
from unitok_jax.errors import UserError
from unitok_jax.layers.grid import grid_angles, patch_raster, raster, sincos
from unitok_jax.layers.masks import self_mask
from unitok_jax.layers.mlp import GatedMLP
from unitok_jax.layers.norms import RMSNorm
from unitok_jax.parallel.rules import Rules, under
from unitok_jax.settings import near

ORDERS = ("raster", "patch")
POSITIONS = ("learned", "sincos")
Steps = Float[Array, "rows *P C"]  # tokens as the head takes them, see `by_step`


def sharding(part: str) -> Rules:
    """Sharding rules of a BitDance whose parameters lie under ``part``."""
    return (
        (rf"^{part}/(class_embedding|positions)/embedding$", (None, "fsdp")),
        (rf"^{part}/query_token$", (None, None)),
        (rf"^{part}/proj_in/(gate|up)/kernel$", (None, "fsdp")),
        (rf"^{part}/proj_in/down/kernel$", ("fsdp", None)),
        (rf"^{part}/proj_in/\w+/bias$", (None,)),
        (rf"^{part}/(emb_norm|norm)/scale$", (None,)),
        *under(f"{part}/layers", BLOCK_SHARDING),
        *under(f"{part}/head", flow_head.SHARDING),
    )


@dataclasses.dataclass(frozen=True)
class BitDanceConfig:
    """A generator; the defaults are BitDance-B's, one token at a time.

    Attributes:
        width, layers, heads: of the transformer.
        channels: bits of a token.
        patch: codes a side of the picture's grid that make one token; a token's bits are channel-major.
        grid: (rows, columns) of tokens that the learned positions are made for.
        classes: number of classes, to which one for "no class" is added; 0 starts from query tokens alone.
        class_tokens: tokens that a class becomes.
        learned_query: the query tokens are parameters; else zeros.
        parallel_num: tokens predicted at once, P.
        order: ``raster``, or ``patch``: square blocks of P tokens, row after row.
        positions: what tells the head which token it predicts: a ``learned`` table, or ``sincos`` for any grid.
        head: the diffusion head.
        remat: recompute the transformer's layers in the backward pass.
        dtype: what is computed in.
    """

    width: int = 768
    layers: int = 24
    heads: int = 12
    channels: int = 32
    patch: int = 1
    grid: tuple[int, int] = (16, 16)
    classes: int = 1000
    class_tokens: int = 64
    learned_query: bool = True
    parallel_num: int = 1
    order: str = "raster"
    positions: str = "learned"
    head: FlowHeadConfig = dataclasses.field(default_factory=FlowHeadConfig)
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for name, known in (("order", ORDERS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"bitdance.{name}: no {getattr(self, name)!r}.{near(getattr(self, name), known)}")
        rows, columns = self.grid
        if rows * columns % self.parallel_num:
            raise UserError(f"bitdance: parallel_num {self.parallel_num} must divide the {rows} x {columns} tokens")
        if self.order == "patch" and (self.side**2 != self.parallel_num or rows % self.side or columns % self.side):
            raise UserError(
                f"bitdance: order patch needs a square parallel_num whose side divides {rows} x {columns}, "
                f"not {self.parallel_num}; take another, or order raster"
            )
        if (self.head.kind == "transformer") != (self.parallel_num > 1):
            raise UserError(
                f"bitdance: parallel_num {self.parallel_num} and a head of kind {self.head.kind}; "
                "the transformer head predicts several tokens, the mlp head one"
            )

    @property
    def side(self) -> int:
        """Side of a square block of P tokens."""
        return int(self.parallel_num**0.5)

    @property
    def queries(self) -> int:
        """Learned tokens that stand for the first ones to come."""
        return self.parallel_num - 1 if self.classes else self.parallel_num

    @property
    def prefix(self) -> int:
        """Positions before the first token."""
        return (self.class_tokens if self.classes else 0) + self.queries

    @property
    def blocks(self) -> DecoderConfig:
        """Sizes of the transformer."""
        return block_config(self.width, self.heads, self.layers, self.remat, self.dtype)

    def places(self, grid: tuple[int, int]) -> Int[np.ndarray, "n"]:
        """Raster index of every token, in the order in which they are predicted."""
        n = grid[0] * grid[1]
        return patch_raster(*grid, self.side) if self.order == "patch" else np.arange(n)

    def angles(self, grid: tuple[int, int]) -> Float[Array, "length half"]:
        """Rotary angles of the prefix (not turned) and of all tokens."""
        y, x = (at[self.places(grid)] for at in raster(*grid))
        turned = grid_angles(y + 1.5, x + 1.5, self.width // self.heads)
        return jnp.pad(turned, ((self.prefix, 0), (0, 0)))

    def mask_blocks(self, length: int) -> Int[Array, "1 length"] | None:
        """The blocks that see themselves both ways: the last of the classes' tokens with the queries, then P by P."""
        if self.parallel_num == 1:
            return None
        place = jnp.arange(length) - (self.prefix - self.parallel_num)
        return jnp.where(place < 0, -1, place // self.parallel_num)[None]


class BitDance(nn.Module):
    """The transformer and its head; parameters are named after the released keys."""

    config: BitDanceConfig

    def setup(self) -> None:
        c, normal = self.config, nn.initializers.normal(0.02)
        if c.classes:
            self.class_embedding = nn.Embed(c.classes + 1, c.class_tokens * c.width, embedding_init=normal)
        if c.queries and c.learned_query:
            self.query_token = self.param("query_token", normal, (c.queries, c.width))
        if c.positions == "learned":
            self.positions = nn.Embed(c.grid[0] * c.grid[1], c.width, embedding_init=normal)
        self.proj_in = GatedMLP(int(1.5 * c.width), use_bias=True, out=c.width, dtype=c.dtype)
        self.emb_norm = RMSNorm(1e-6)
        self.layers = Stack(c.blocks)
        self.norm = RMSNorm(1e-6)
        self.head = FlowHead(c.head, c.channels)

    def prefix(self, labels: Int[Array, "B"]) -> Float[Array, "B prefix D"]:
        """What stands before the tokens; the label `classes` is "no class"."""
        c, parts = self.config, []
        if c.classes:
            parts.append(self.class_embedding(labels).reshape(len(labels), c.class_tokens, c.width))
        if c.queries:
            query = self.query_token if c.learned_query else jnp.zeros((c.queries, c.width))
            parts.append(jnp.broadcast_to(query, (len(labels), c.queries, c.width)))
        return jnp.concatenate(parts, 1).astype(c.dtype)

    def project(self, tokens: Float[Array, "B n C"]) -> Float[Array, "B n D"]:
        """What the transformer reads for tokens."""
        return self.proj_in(tokens.astype(self.config.dtype))

    def read(
        self, x: Float[Array, "B S D"], reading: Reading, cache: KVCache | None = None
    ) -> tuple[Float[Array, "B S D"], KVCache | None, Float[Array, "B S D"]]:
        """(hidden states, the filled cache, the normed input) of a sequence or of its continuation."""
        x = self.emb_norm(x)
        memories = None if cache is None else tuple(zip(cache.keys, cache.values, strict=True))
        after, memories = self.layers(x, reading, memories, True)
        if cache is not None and memories is not None:
            keys, values = zip(*memories, strict=True)
            cache = KVCache(keys, values, cache.lengths + x.shape[1])
        return self.norm(list(after.values())[-1]), cache, x

    def head_positions(self, grid: tuple[int, int]) -> Float[Array, "n D"]:
        """What is added to the hidden states of all tokens, in their order, before the head reads them."""
        c = self.config
        if c.positions == "learned":
            return self.positions.embedding.astype(jnp.float32)
        y, x = (at[c.places(grid)] for at in raster(*grid))
        return sincos(y, x, c.width)

    def __call__(
        self, tokens: Float[Array, "B n C"], labels: Int[Array, "B"], grid: tuple[int, int] | None = None
    ) -> tuple[Float[Array, "B n D"], dict[str, Any]]:
        """Conditions of all tokens, each from those before it.

        Args:
            tokens: in the order of prediction.
            labels: classes; not looked at without any.
            grid: (rows, columns); the config's by default.

        Returns:
            What the head reads, and ``{"embedded", "hidden", "angles"}``.
        """
        c = self.config
        grid = grid or c.grid
        known = self.project(tokens[:, : tokens.shape[1] - c.parallel_num])
        x = jnp.concatenate([self.prefix(labels), known], 1)
        length = x.shape[1]
        angles = c.angles(grid)[:length]
        mask = self_mask(blocks=c.mask_blocks(length), longest_block=c.parallel_num)
        reading = Reading(jnp.cos(angles)[None], jnp.sin(angles)[None], mask)
        hidden, _, embedded = self.read(x, reading)
        hidden = hidden[:, -tokens.shape[1] :]
        conditions = hidden + self.head_positions(grid).astype(hidden.dtype)
        return conditions, {"embedded": embedded, "hidden": hidden, "angles": angles}

    def denoise(self, z: Steps, t: Float[Array, "rows"], condition: Float[Array, "rows *P D"]) -> Steps:
        """The head."""
        return self.head(z, t, condition)

    def warm_up(self, tokens: Float[Array, "B n C"], labels: Int[Array, "B"]) -> Steps:
        """Touches all parameters: for `init`."""
        conditions, _ = self(tokens, labels)
        rows = by_step(self.config, conditions)
        return self.head(by_step(self.config, tokens), jnp.zeros(len(rows)), rows)


def by_step(config: BitDanceConfig, x: Float[Array, "B n D"]) -> Float[Array, "rows *P D"]:
    """Tokens as the head takes them: [B n, D] one by one, [B n / P, P, D] by blocks."""
    parallel = config.parallel_num
    return x.reshape(-1, x.shape[-1]) if parallel == 1 else x.reshape(-1, parallel, x.shape[-1])


def to_tokens(config: BitDanceConfig, codes: Float[Array, "B h w bits"]) -> Float[Array, "B n C"]:
    """A map of codes as tokens in the order of prediction."""
    p, (rows, columns) = config.patch, codes.shape[1:3]
    raster_order = rearrange(codes, "b (h r) (w s) bits -> b (h w) (bits r s)", r=p, s=p)
    return raster_order[:, config.places((rows // p, columns // p))]


def to_codes(
    config: BitDanceConfig, tokens: Float[Array, "B n C"], grid: tuple[int, int]
) -> Float[Array, "B h w bits"]:
    """Undoes `to_tokens`; `grid` counts tokens."""
    raster_order = tokens[:, np.argsort(config.places(grid))]
    sizes = {"h": grid[0], "r": config.patch, "s": config.patch}
    return rearrange(raster_order, "b (h w) (bits r s) -> b (h r) (w s) bits", **sizes)


def init_bitdance(config: BitDanceConfig, key: PRNGKeyArray) -> dict[str, Any]:
    """Random parameters, float32."""
    tokens = jnp.zeros((1, config.grid[0] * config.grid[1], config.channels))
    return BitDance(config).init(key, tokens, jnp.zeros(1, jnp.int32), method=BitDance.warm_up)["params"]


def step_reading(config: BitDanceConfig, grid: tuple[int, int], cache: KVCache, positions: int) -> Reading:
    """How the next `positions` positions of all rows read what is cached: the prefix at first, then P tokens."""
    index = cache.indices(positions)
    angles = jax.lax.dynamic_slice_in_dim(config.angles(grid), cache.lengths[0], positions, 0)
    blocks = None
    if config.parallel_num > 1:
        one = jnp.zeros((1, positions), jnp.int32)
        blocks = config.mask_blocks(positions) if positions == config.prefix else one
        blocks = None if blocks is None else jnp.broadcast_to(blocks, index.shape)
    return Reading(jnp.cos(angles)[None], jnp.sin(angles)[None], cache.mask(positions, blocks), index)


def generator_cache(config: BitDanceConfig, grid: tuple[int, int], rows: int) -> KVCache:
    """An empty cache for a whole picture."""
    return new_cache(
        (config.layers,), rows, config.prefix + grid[0] * grid[1], config.heads, config.width // config.heads,
        config.dtype,
    )  # fmt: skip
