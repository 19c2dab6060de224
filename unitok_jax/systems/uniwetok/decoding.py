"""UniWeTok's decode: words one by one, or the tokens of one picture, P at a time (specification, section 8.7).

Which of the two is static: `Decoding.grid`, the (rows, columns) of the picture to be drawn, or None for words. A drawn
picture begins with two steps that write nothing of the model's: the height; the width and the queries, from which the
first P tokens are drawn. Their ids hold the grid instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unitok_jax.errors import UserError
from unitok_jax.layers.grid import patch_raster
from unitok_jax.quantizers import binary
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import Keys, draw
from unitok_jax.sampling.settings import Decoding
from unitok_jax.sampling.x_prediction import euler_maruyama
from unitok_jax.systems.base import Emission, Params
from unitok_jax.systems.uniwetok import lm
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.vocabulary import TokenIds

HEAD = 2  # steps before the first that draws
ROWS = 1 << 16  # the grid as one number: rows * ROWS + columns


def check_grid(config: UniWeTokConfig, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of a picture to be drawn.

    Raises:
        UserError: for a size that the model does not list.
    """
    factor = config.vae.factor
    listed = [(height // factor, width // factor) for height, width in config.all_sizes]
    if tuple(grid) not in listed:
        known = ", ".join(f"{rows}x{columns}" for rows, columns in listed)
        raise UserError(f"grid {grid[0]}x{grid[1]} (tokens of {factor} pixels): not among the model's: {known}")
    return grid[0], grid[1]


class Step(NamedTuple):
    """What one step of a picture drew.

    Attributes:
        condition: what the head read, [R, P, D].
        predicted: its tokens before the sign, [B, P, bits].
        signs: the tokens.
        embeds: what the LM reads for them, [R, P, D].
    """

    condition: Array
    predicted: Array
    signs: Array
    embeds: Array


def draw_tokens(
    config: UniWeTokConfig,
    params: Params,
    hidden: Float[Array, "R P D"],
    number: Int[Array, ""] | int,
    columns: int,
    noise: Float[Array, "steps_plus_one B P bits"],
    scale: float | None,
) -> Step:
    """Draws block `number` of a picture that is `columns` tokens wide.

    Args:
        config, params: of the model.
        hidden: of the P positions before, conditional rows and, under guidance, unconditional ones.
        number: of the block.
        columns: of the picture.
        noise: standard normal.
        scale: guidance on velocities; None without unconditional rows.
    """
    place = number * config.parallel_num + jnp.arange(config.parallel_num)
    condition = hidden.astype(jnp.float32) + lm.positions(config, place, jnp.int32(columns))

    def predict(z: Array, t: Array) -> Array:
        return lm.denoise(config, params, z, t, condition)

    predicted, _ = euler_maruyama(predict, noise, guidance=scale, shift=config.flow.time_shift)
    signs = binary.signs(predicted)
    embeds = lm.token_embeds(config, params, signs, place, jnp.int32(columns))
    return Step(condition, predicted, signs, embeds if scale is None else jnp.concatenate([embeds, embeds]))


def picture_step(
    config: UniWeTokConfig,
    ids: TokenIds,
    params: Params,
    embed_ids: Callable[[Array], Array],
    hidden: Float[Array, "R *P D"],
    step: Int[Array, ""],
    decoding: Decoding,
    keys: Keys,
) -> tuple[Emission, Int[Array, ""]]:
    """One step of a picture; the state is the number of steps taken."""
    assert decoding.grid is not None
    rows, columns = check_grid(config, decoding.grid)
    parallel, groups = config.parallel_num, config.vae.bit_groups
    last = rows * columns // parallel
    count = len(hidden)
    scale = decoding.guidance if guidance.rows_per_sample(decoding) == 2 else None
    hidden = jnp.broadcast_to(hidden.reshape(count, -1, hidden.shape[-1]), (count, parallel, hidden.shape[-1]))

    def said(tokens: list[int]) -> tuple[Array, Array]:
        """Forced ids, padded to P."""
        padded = jnp.asarray(tokens + [0] * (parallel - len(tokens)), jnp.int32)
        head = jnp.full((count, parallel, groups), rows * ROWS + columns, jnp.int32)
        block = embed_ids(padded)
        return head, jnp.broadcast_to(block, (count, *block.shape))

    def drawn(hidden: Array) -> tuple[Array, Array]:
        shape = (decoding.noise_steps + 1, parallel, config.vae.z_channels)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)
        found = draw_tokens(config, params, hidden, step - HEAD, columns, noise, scale)
        return guidance.to_rows(binary.to_indices(found.signs, groups), decoding), found.embeds

    forced = [lambda _: said([ids.side(rows)]), lambda _: said(ids.block(columns))]
    codes, embeds = jax.lax.switch(jnp.minimum(step, HEAD), [*forced, drawn], hidden)
    done = jnp.full(count, step >= last + HEAD - 1)
    read = jnp.full(count, jnp.where(step == 0, 1, parallel), jnp.int32)
    return Emission(codes, embeds, done, jnp.zeros(count, bool), read), step + 1


def text_step(
    logits: Float[Array, "R V"],
    embed_ids: Callable[[Array], Array],
    ids: TokenIds,
    decoding: Decoding,
    keys: Keys,
) -> Emission:
    """One id a sample; guidance is for pictures and leaves words alone."""
    drawn = draw(guidance.conditional(logits, decoding), keys, decoding.text)
    rows = guidance.to_rows(drawn, decoding)[:, None]
    return Emission(rows, embed_ids(rows), rows[:, 0] == ids.im_end, jnp.zeros(len(rows), bool))


def read_picture(config: UniWeTokConfig, ids: Int[np.ndarray, "n groups"]) -> list[Int[np.ndarray, "_ _ groups"]]:
    """The picture of a drawing decode as codes [rows, columns, groups]; none where it is not whole."""
    if not len(ids):
        return []
    rows, columns = divmod(int(ids[0, 0]), ROWS)
    body = ids[HEAD * config.parallel_num :]
    if len(body) < rows * columns:
        return []
    codes = np.empty_like(body[: rows * columns])
    codes[patch_raster(rows, columns, config.side)] = body[: rows * columns]
    return [codes.reshape(rows, columns, -1)]
