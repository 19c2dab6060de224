"""DualToken's decode: words until ``<|vision_start|>``, then every position of a picture, then words again.

A picture has a fixed number of positions, during which no text logits are looked at: both heads draw their codes from
the hidden state, the projected codes are what the model reads next, and ``<|vision_end|>`` follows the last. Guidance
acts on codes alone and compares with a prompt whose request is empty (specification, section 10.6).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from unitok_jax.errors import UserError
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import Keys, draw, step_keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import Batch, Emission, Params
from unitok_jax.systems.dualtoken.config import HEADS
from unitok_jax.systems.dualtoken.drawing import draw_codes, rows_of
from unitok_jax.systems.dualtoken.vocabulary import TokenIds

WORDS = -1  # the place of a sample that writes words


class DecodeState(struct.PyTreeNode):
    """Where each of B samples stands.

    Attributes:
        place: int32 [B], how many positions of its picture are drawn; `WORDS` outside of pictures.
        sums: by branch, the sums of the codebook rows drawn, [B, n, features].
        done: bool [B], the turn has ended.
    """

    place: Int[Array, " B"]
    sums: dict[str, Float[Array, "B positions _"]]
    done: Bool[Array, " B"]


def decode_init(system: Any, batch: Batch, decoding: Decoding) -> DecodeState:
    """The state after the prompts of `batch`: a picture is drawn where the prompt ends in ``<|vision_start|>``.

    Raises:
        UserError: for a grid other than the tokenizer's.
    """
    config = system.config
    if decoding.grid not in (None, config.grid):
        raise UserError(
            f"grid {decoding.grid}: DualToken draws pictures of {config.grid[0]}x{config.grid[1]} positions"
        )
    tokens, segments = (guidance.conditional(batch[name], decoding) for name in ("tokens", "segments"))
    last = jnp.take_along_axis(tokens, (segments > 0).sum(1)[:, None] - 1, axis=1)[:, 0]
    rows, columns = config.grid
    sums = {name: jnp.zeros((len(tokens), rows * columns, config.quantizer(name).width)) for name in config.branches}
    draws = last == system.vocabulary.ids.vision_start
    return DecodeState(jnp.where(draws, 0, WORDS).astype(jnp.int32), sums, jnp.zeros(len(tokens), bool))


def decode_step(
    system: Any, params: Params, hidden: Float[Array, "both width"], state: DecodeState, decoding: Decoding, keys: Keys
) -> tuple[Emission, DecodeState]:
    """Draws one position a sample: an id, and the codes where a picture is drawn; guided rows share it.

    The emission's `codes` are [R, 1, 1 + Q]: the id, then pixel and semantic codes (0 with words).
    """
    ids, positions = system.vocabulary.ids, next(iter(state.sums.values())).shape[1]
    drawing, closing = (state.place >= 0) & (state.place < positions), state.place == positions
    word = jax.lax.cond(
        drawing.all(), lambda: jnp.zeros(len(drawing), jnp.int32), lambda: _word(system, params, hidden, decoding, keys)
    )
    codes, sums = jax.lax.cond(
        drawing.any(),
        lambda: _codes(system, params, hidden, state, decoding, keys, drawing),
        lambda: (jnp.zeros((len(drawing), system.config.depth), jnp.int32), state.sums),
    )
    chosen = jnp.where(drawing, ids.image_pad, jnp.where(closing, ids.vision_end, word))
    chosen = jnp.where(state.done, ids.turn_end, chosen)
    ended = state.done | (~drawing & ~closing & ((chosen == ids.turn_end) | (chosen == ids.end_of_text)))
    place = jnp.where(drawing, state.place + 1, jnp.where(~closing & (chosen == ids.vision_start), 0, WORDS))
    after = DecodeState(jnp.where(state.done, state.place, place), sums, ended)
    embeds = _embeds(system, params, chosen, sums, state.place, drawing)
    rows = jnp.concatenate([chosen[:, None], codes], 1)[:, None]
    rows, embeds, done = (guidance.to_rows(x, decoding) for x in (rows, embeds[:, None], ended))
    return Emission(rows, embeds, done, jnp.zeros(len(done), bool)), after


def _word(system: Any, params: Params, hidden: Array, decoding: Decoding, keys: Keys) -> Int[Array, " B"]:
    """An id that is not part of a picture."""
    ids = system.vocabulary.ids
    logits = system.apply(params, "lm", guidance.conditional(hidden, decoding), method="logits")
    inside = jnp.array([ids.image_pad, ids.vision_end])
    logits = logits.at[:, inside].set(-jnp.inf)
    return draw(logits, keys, decoding.text)


def _codes(
    system: Any,
    params: Params,
    hidden: Array,
    state: DecodeState,
    decoding: Decoding,
    keys: Keys,
    drawing: Bool[Array, " B"],
) -> tuple[Int[Array, "B depth"], dict[str, Array]]:
    """The codes of this position, all branches, and the sums with theirs written in."""
    config, drawn, sums = system.config, [], dict(state.sums)
    at = jnp.where(drawing, state.place, next(iter(sums.values())).shape[1])  # beyond the end: dropped
    for number, branch in enumerate(config.branches):
        rows = rows_of(config.quantizer(branch), params["codebooks"][branch])
        branch_keys = step_keys(keys, number)
        head = config.depth_head(branch)
        codes, total, _ = draw_codes(head, params[HEADS[branch]], hidden, rows, decoding, branch_keys)
        drawn.append(jnp.where(drawing[:, None], codes, 0))
        sums[branch] = sums[branch].at[jnp.arange(len(at)), at].set(total, mode="drop")
    return jnp.concatenate(drawn, 1), sums


def _embeds(
    system: Any, params: Params, ids: Array, sums: dict[str, Array], place: Array, drawing: Array
) -> Float[Array, "B width"]:
    """What the model reads next: the id's row, or the projected codes."""
    words = system.apply(params, "lm", ids, method="embed_tokens")

    def visual() -> jax.Array:
        at = jnp.clip(place, 0)[:, None]
        return system.visual_embeds(params, sums, at=at)[:, 0].astype(words.dtype)

    seen = jax.lax.cond(drawing.any(), visual, lambda: jnp.zeros_like(words))
    return jnp.where(drawing[:, None], seen, words)


def read_ids(
    ids: Int[np.ndarray, "T _"], tokens: TokenIds, grid: tuple[int, int]
) -> tuple[list[int], list[Int[np.ndarray, "rows columns depth"]]]:
    """Splits what was decoded, [T, 1 + Q], into ids of words and the codes of each whole picture."""
    words, images, run = [], [], []
    for row in ids:
        if row[0] == tokens.image_pad:
            run.append(row[1:])
            continue
        images += _whole(run, grid)
        run = []
        if row[0] not in (tokens.vision_start, tokens.vision_end, tokens.turn_end, tokens.end_of_text):
            words.append(int(row[0]))
    return words, images + _whole(run, grid)


def _whole(run: Sequence[np.ndarray], grid: tuple[int, int]) -> list[np.ndarray]:
    rows, columns = grid
    return [np.stack(run).reshape(rows, columns, -1).astype(np.int32)] if len(run) == rows * columns else []
