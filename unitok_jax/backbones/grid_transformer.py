"""The transformer in the middle of the hybrid tokenizer: all tokens of a map and four registers, seen both ways.

Positions are measured in the tokens of an 8 x 8 grid whatever the size of the map (arXiv 2602.14178; the encoder's and
the decoder's rule differ in the release unless the map is 8 high and wide).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.backbones import decoder_lm
from unitok_jax.backbones.decoder_block import Reading, Stack
from unitok_jax.backbones.decoder_config import DecoderConfig
from unitok_jax.errors import UserError
from unitok_jax.layers.conv import Map
from unitok_jax.layers.grid import grid_angles, raster
from unitok_jax.layers.masks import FULL

REGISTERS = 4
GRID = 8  # tokens a side of the grid trained on

SHARDING = tuple(rule for rule in decoder_lm.SHARDING if "attention" in rule[0] or "mlp" in rule[0])


def block_config(width: int, heads: int, layers: int, remat: bool = False, dtype: str = "float32") -> DecoderConfig:
    """The blocks that the tokenizer and BitDance's generators share: RMS norms, SwiGLU, no biases.

    The feed-forward width is ``8/3 width`` rounded down, then up to a multiple of 256.

    Raises:
        UserError: for a head width that is no multiple of 4.
    """
    if width % heads or width // heads % 4:
        raise UserError(f"transformer: {heads} heads of width {width} / {heads} need a head width that 4 divides")
    ffn = -(-int(2 * (4 * width) / 3) // 256) * 256
    head_dim = width // heads
    return DecoderConfig(
        0, width, ffn, layers, heads, heads, head_dim,
        rope_layout="interleaved", norm_eps=1e-6, remat=remat, dtype=dtype,
    )  # fmt: skip


def encoder_places(side: int) -> Float[Array, "side"]:
    """Where the tokens of a side stand for the encoder: from 0.5 to 7.5; a lone token (no number upstream) at 0.5."""
    return (GRID - 1) * jnp.arange(side) / max(side - 1, 1) + 0.5


def decoder_places(side: int) -> Float[Array, "side"]:
    """Where they stand for the decoder: steps of ``7.5 / (side - 0.5)`` from half a step to 7.5."""
    return (jnp.arange(side) + 0.5) * (GRID - 0.5) / (side - 0.5)


Places = Callable[[int], Float[Array, "side"]]
ENCODER: Places = encoder_places
DECODER: Places = decoder_places


def map_angles(rows: int, columns: int, head_dim: int, places: Places) -> Float[Array, "n half"]:
    """Rotary angles of the registers (not turned) and of a map's tokens, row after row."""
    y, x = raster(rows, columns)
    angles = grid_angles(places(rows)[y] + 1, places(columns)[x] + 1, head_dim)
    return jnp.pad(angles, ((REGISTERS, 0), (0, 0)))


class GridTransformer(nn.Module):
    """Blocks over a map.

    Attributes:
        width, heads, layers: of the blocks; without layers the registers stand unused, as released.
        remat: see `DecoderConfig`.
        dtype: what is computed in.
        keep: hand out what each layer gives.
    """

    width: int
    heads: int
    layers: int
    remat: bool
    dtype: str
    keep: bool

    @nn.compact
    def __call__(self, x: Map, places: Places) -> tuple[Map, dict[str, Any]]:
        batch, rows, columns, width = x.shape
        registers = self.param("registers", nn.initializers.normal(0.02), (REGISTERS, self.width))
        if not self.layers:
            return x, {}
        config = block_config(self.width, self.heads, self.layers, self.remat, self.dtype)
        angles = map_angles(rows, columns, config.head_dim, places)
        reading = Reading(jnp.cos(angles)[None], jnp.sin(angles)[None], FULL)
        start = jnp.broadcast_to(registers.astype(x.dtype), (batch, *registers.shape))
        tokens = jnp.concatenate([start, x.reshape(batch, rows * columns, width)], 1)
        after, _ = Stack(config, name="layers")(tokens, reading, None, True)
        tokens = list(after.values())[-1]
        aux = {"angles": angles, "tokens": tokens} if self.keep else {}
        return tokens[:, REGISTERS:].reshape(x.shape), aux
