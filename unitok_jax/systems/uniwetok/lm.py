"""The unified language model on arrays: what it reads for pictures, and how its hidden states become their tokens.

Source: specification, section 8; the packed forward of the release, with rows of static shape in the place of one
flat pack. A batch's pictures come as signs, [batch, images, n, bits], in patch-raster order: square blocks of P tokens.
`slots` count tokens: token k of the row's picture i has slot ``i n + k``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unitok_jax.backbones.flow_head import FlowHead, draw_training_noise, training_loss
from unitok_jax.data.rows import Modality
from unitok_jax.layers.applied import applied
from unitok_jax.layers.grid import patch_raster_places, sincos
from unitok_jax.layers.mlp import MLP
from unitok_jax.parallel.mesh import pin_positions, pin_rows
from unitok_jax.systems.base import Batch, Params
from unitok_jax.systems.loss_positions import Places, draws, find
from unitok_jax.systems.uniwetok.config import UniWeTokConfig

Signs = Float[Array, "batch images n bits"]
Noise = tuple[Float[Array, "repeated_blocks"], Float[Array, "repeated_blocks P bits"]]  # times and noise


def projector(config: UniWeTokConfig) -> MLP:
    """What makes a token's bits an embedding of the LM."""
    return MLP(config.decoder.width, "gelu_tanh", out=config.decoder.width, dtype=config.decoder.dtype)


def in_blocks(signs: Signs, columns: Int[Array, "batch images"], side: int) -> Signs:
    """Tokens from raster order, each picture `columns` wide, to patch-raster order; what lies behind them stays."""
    if side == 1:
        return signs
    place = jnp.arange(signs.shape[2])
    y, x = patch_raster_places(place, columns[..., None], side)
    source = jnp.minimum(y * columns[..., None] + x, signs.shape[2] - 1)
    return jnp.take_along_axis(signs, source[..., None], axis=2)


def positions(config: UniWeTokConfig, place: Int[Array, "*i"], columns: Int[Array, "*c"]) -> Float[Array, "*n D"]:
    """The fixed embedding of the position on the plane of the tokens at `place` in patch-raster order."""
    y, x = patch_raster_places(place, columns, config.side)
    return sincos(y, x, config.decoder.width)


def token_embeds(
    config: UniWeTokConfig,
    params: Params,
    signs: Float[Array, "*n bits"],
    place: Int[Array, "*i"],
    columns: Int[Array, "*c"],
) -> Float[Array, "*n D"]:
    """What the LM reads for tokens of a picture."""
    read = applied(projector(config), params["projector"], signs.astype(config.decoder.dtype))
    return (read + positions(config, place, columns).astype(read.dtype)).astype(read.dtype)


def place_tokens(
    config: UniWeTokConfig,
    params: Params,
    embeds: Float[Array, "batch seq D"],
    batch: Batch,
    signs: Signs,
    columns: Int[Array, "batch images"],
) -> Float[Array, "batch seq D"]:
    """Puts the pictures' tokens at the code positions of text embeddings."""
    count = signs.shape[2]
    is_code = batch["modality"] == Modality.CODE
    slots = jnp.where(is_code, batch["slots"], 0)
    # Signs are gathered, not embeddings: the pictures' room may be many times the row's.
    bits = jnp.take_along_axis(signs.reshape(len(signs), -1, signs.shape[-1]), slots[..., None], axis=1)
    wide = jnp.take_along_axis(columns, slots // count, axis=1)
    bits, slots, wide = pin_positions((pin_rows(bits), slots, wide))
    read = pin_rows(token_embeds(config, params, bits, slots % count, wide).astype(embeds.dtype))
    return jnp.where(is_code[..., None], read, embeds)


class Drawn(NamedTuple):
    """The positions of a batch that draw tokens, gathered: K blocks of P a row.

    Attributes:
        position: where in the row.
        token: which of the row's tokens, counted over its pictures.
        kept: whether there is such a position at all.
    """

    position: Int[Array, "batch KP"]
    token: Int[Array, "batch KP"]
    kept: Bool[Array, "batch KP"]


def blocks_in(config: UniWeTokConfig, batch: Batch, tokens: int) -> int:
    """How many whole blocks of P tokens a row draws at most, of `tokens`."""
    return min(tokens, batch["targets"].shape[1]) // config.parallel_num


def gather_drawn(config: UniWeTokConfig, batch: Batch, most: int) -> Drawn:
    """The positions that draw, in order, so that every P of them are one block.

    Args:
        config: of the model.
        batch: position t draws the token that stands at t + P.
        most: how many tokens a row draws at most.
    """
    parallel, mask = config.parallel_num, draws(batch)
    places = find(mask, blocks_in(config, batch, most) * parallel)
    ahead = jnp.minimum(places.at + parallel, mask.shape[1] - 1)
    slots = jnp.take_along_axis(batch["slots"], ahead, axis=1)
    return Drawn(places.at, jnp.where(places.used, slots, 0), places.used)


def drawn_pictures(drawn: Drawn, images: int, tokens: int) -> Bool[Array, "batch images"]:
    """Which pictures of each row are drawn rather than read; `tokens` a picture."""
    owner = jnp.where(drawn.kept, drawn.token // tokens, images)
    rows = jnp.arange(len(owner))[:, None]
    return jnp.zeros((len(owner), images), bool).at[rows, owner].set(True, mode="drop")


def conditions(
    config: UniWeTokConfig,
    hidden: Float[Array, "batch seq D"],
    drawn: Drawn,
    columns: Int[Array, "batch images"],
    n: int,
) -> Float[Array, "blocks P D"]:
    """What the head reads: hidden states of the drawing positions and where on the plane their tokens stand."""
    gathered = pin_positions(Places(drawn.position, drawn.kept).pick(hidden).astype(jnp.float32))
    wide = jnp.take_along_axis(columns, drawn.token // n, axis=1)
    return (gathered + positions(config, drawn.token % n, wide)).reshape(-1, config.parallel_num, hidden.shape[-1])


def draw_noise(config: UniWeTokConfig, key: PRNGKeyArray, drawn: Drawn, blocks: int) -> Noise:
    """Times and noise of `drawing_loss`.

    They are drawn for the `blocks` that a row could have without a bound and cut to those that `drawn` has room for,
    so that the bound changes no loss.
    """
    (rows, positions), parallel = drawn.position.shape, config.parallel_num
    head = FlowHead(config.flow, config.vae.z_channels)
    noise = draw_training_noise(head, key, (rows * blocks, parallel, config.vae.z_channels))

    def cut(x: Array) -> Array:
        return x.reshape(-1, rows, blocks, *x.shape[1:])[:, :, : positions // parallel].reshape(-1, *x.shape[1:])

    return cut(noise[0]), cut(noise[1])


def drawing_loss(
    config: UniWeTokConfig,
    params: Params,
    signs: Signs,
    condition: Float[Array, "blocks P D"],
    drawn: Drawn,
    noise: Noise,
) -> Float[Array, "repeat blocks P"]:
    """The head's loss of every drawn token, mean over its bits; to be masked by `drawn.kept`."""
    flat = signs.reshape(len(signs), -1, signs.shape[-1])
    target = jnp.take_along_axis(flat, drawn.token[..., None], axis=1).reshape(*condition.shape[:2], -1)
    head = FlowHead(config.flow, config.vae.z_channels)
    entries, _ = training_loss(head, params["flow"], target, condition, *noise)
    return entries.mean(-1).reshape(-1, *condition.shape[:2])


def denoise(
    config: UniWeTokConfig,
    params: Params,
    z: Float[Array, "rows *P bits"],
    t: Float[Array, "rows"],
    condition: Float[Array, "rows *P D"],
) -> Float[Array, "rows *P bits"]:
    """The head."""
    return applied(FlowHead(config.flow, config.vae.z_channels), params["flow"], z, t, condition)
