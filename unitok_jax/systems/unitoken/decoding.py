"""UniToken's decode: text until BOI, then a fixed grid of codes, then text again (specification, section 12).

Per sample, from the ids so far: as many BOI as EOI is text mode; one BOI more is image mode, where the two grid
tokens are forced, each row of codes ends in a newline, and EOI closes the image. Guidance acts on the codes alone
and compares with a context that starts at BOI. The released solver's three logits processors do this from row 0
of the ids; here every row has a state of its own.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Int32

from unitok_jax.errors import UserError
from unitok_jax.sampling import filters, guidance
from unitok_jax.sampling.draw import Keys, draw_by_mode
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import Batch, Emission
from unitok_jax.systems.unitoken.vocabulary import TokenIds

RELEASED_GRID = (32, 32)  # 512 x 512 pixels


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What may follow what.

    Attributes:
        ids: the ids with a meaning.
        size: rows of the embedding table that stand for an id; columns beyond it are never drawn.
        grid: (rows, columns) of codes of a drawn image, both even; `Decoding.grid` overrides it.
    """

    ids: TokenIds
    size: int
    grid: tuple[int, int] = RELEASED_GRID

    def grid_tokens(self, decoding: Decoding) -> tuple[int, int]:
        """The two ids that say how high and wide an image is.

        Raises:
            UserError: for a grid that is not two even positive numbers, or larger than the vocabulary can say.
        """
        rows, columns = decoding.grid or self.grid
        if rows < 2 or columns < 2 or rows % 2 or columns % 2:
            raise UserError(f"grid {rows}x{columns}: rows and columns of codes must be even and at least 2")
        if max(rows, columns) // 2 >= self.ids.grids:
            raise UserError(
                f"grid {rows}x{columns}: the vocabulary can say at most {2 * self.ids.grids - 2} codes a side"
            )
        return self.ids.grid + rows // 2, self.ids.grid + columns // 2


class DecodeState(struct.PyTreeNode):
    """Where each of B samples stands.

    Attributes:
        depth: int32 [B], BOIs minus EOIs so far: 0 is text mode, 1 image mode, anything else neither.
        since: int32 [B], ids after the last BOI.
        rows, columns: int32 [B], what the last image's grid tokens said, in codes.
        done: bool [B], the turn has ended.
    """

    depth: Int[Array, "B"]
    since: Int[Array, "B"]
    rows: Int[Array, "B"]
    columns: Int[Array, "B"]
    done: Bool[Array, "B"]

    @property
    def in_image(self) -> Bool[Array, "B"]:
        return self.depth == 1

    @property
    def in_codes(self) -> Bool[Array, "B"]:
        """Past the two grid tokens of an image."""
        return self.in_image & (self.since >= 2)


def decode_init(grammar: Grammar, batch: Batch, decoding: Decoding) -> DecodeState:
    """The state after the prompts of `batch`: `tokens` and `segments` int32 [R, S] (0 = padding on the right)."""
    tokens = guidance.conditional(batch["tokens"], decoding)
    lengths = (guidance.conditional(batch["segments"], decoding) > 0).sum(axis=1)
    position = jnp.arange(tokens.shape[1])
    tokens = jnp.where(position < lengths[:, None], tokens, grammar.ids.bos)
    begins = tokens == grammar.ids.boi
    start = jnp.where(begins, position, -1).max(axis=1)
    rows, columns = (_said(grammar.ids, tokens, start + i) for i in (1, 2))
    return DecodeState(
        depth=(begins.astype(jnp.int32) - (tokens == grammar.ids.eoi)).sum(axis=1),
        since=(lengths - 1 - start).astype(jnp.int32),
        rows=rows,
        columns=columns,
        done=jnp.zeros(lengths.shape, bool),
    )


def _said(ids: TokenIds, tokens: Int[Array, "B S"], position: Int[Array, "B"]) -> Int[Array, "B"]:
    token = jnp.take_along_axis(tokens, position[:, None], axis=1, mode="clip")[:, 0]
    return 2 * (token - ids.grid)


def observe(ids: TokenIds, state: DecodeState, codes: Int[Array, "B"]) -> DecodeState:
    """The state after one more id a sample; a sample that is done stays as it is."""
    begins, ends = codes == ids.boi, codes == ids.eoi
    since = jnp.where(begins, 0, state.since + 1)
    said = 2 * (codes - ids.grid)
    after = DecodeState(
        depth=state.depth + begins.astype(jnp.int32) - ends,
        since=since,
        rows=jnp.where(state.in_image & (since == 1), said, state.rows),
        columns=jnp.where(state.in_image & (since == 2), said, state.columns),
        done=codes == ids.end_of_turn,
    )
    return jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, after)


def scores(
    grammar: Grammar, logits: Float[Array, "R V"], state: DecodeState, decoding: Decoding
) -> Float[Array, "B V"]:
    """Guided logits with everything that may not come next at -inf; a forced id alone has 0."""
    ids, t = grammar.ids, state.since - 2
    vocabulary = jnp.arange(logits.shape[-1])
    guided = guidance.guide(logits, decoding, where=state.in_codes)
    code = (vocabulary >= ids.code_offset) & (vocabulary < ids.code_offset + ids.codes)
    allowed = jnp.where(state.in_codes[:, None], code, vocabulary < grammar.size)
    masked = filters.keep_allowed(guided, allowed)
    line = state.columns + 1
    newline = state.in_codes & ((t + 1) % jnp.maximum(line, 1) == 0)
    end = state.in_codes & (t + 1 == line * state.rows + 1) & ~newline
    height, width = grammar.grid_tokens(decoding)
    head = jnp.where(state.since == 0, height, width)
    forced = jnp.where(newline, ids.newline, jnp.where(end, ids.eoi, head))
    return filters.force(masked, forced, newline | end | (state.in_image & (state.since < 2)))


def decode_step(
    grammar: Grammar,
    logits: Float[Array, "R V"],
    embed_ids: Callable[[Int[Array, "R"]], Float[Array, "R 1 D"]],
    state: DecodeState,
    decoding: Decoding,
    keys: Keys,
) -> tuple[Emission, DecodeState]:
    """Draws one id a sample from the raw fp32 logits of its rows; guided rows share it.

    Args:
        grammar: what may follow what.
        logits: of the B conditional rows and, under guidance, the B unconditional ones.
        embed_ids: what the language model reads for an id.
        state: from `decode_init` or the last step.
        decoding: the draws in text and image mode, the guidance scale.
        keys: [B], one a sample, for this step.
    """
    masked = scores(grammar, logits, state, decoding)
    drawn = draw_by_mode(masked, keys, decoding.image, decoding.text, state.in_image)
    codes = jnp.where(state.done, grammar.ids.end_of_turn, drawn)
    after = observe(grammar.ids, state, codes)
    rows = guidance.to_rows(codes, decoding)
    begins = (codes == grammar.ids.boi) & ~state.done
    restart = jnp.concatenate([jnp.zeros_like(begins), begins])[: rows.shape[0]]
    return Emission(rows[:, None], embed_ids(rows), guidance.to_rows(after.done, decoding), restart), after


def read_ids(
    ids: Sequence[int] | Int[np.ndarray, "T"], tokens: TokenIds
) -> tuple[list[int], list[Int32[np.ndarray, "_ _"]]]:
    """Splits decoded ids into text ids and images (specification, section 12.3).

    An image runs from BOI to EOI; in the text each finished one becomes the id `TokenIds.image`. An unfinished
    image swallows the rest and yields nothing; one whose ids are not a whole grid of codes is left out.
    An EOI that no BOI precedes ends an image that the prompt began. End-of-turn ids are dropped.

    Returns:
        (text ids, codes [rows, columns] of each image).
    """
    ids = [int(i) for i in ids]
    text: list[int] = []
    images: list[np.ndarray] = []
    position = _prompted_image(ids, tokens)
    if position:
        _finish(ids[: position - 1], tokens, text, images)
    while position < len(ids):
        if ids[position] != tokens.boi:
            if ids[position] != tokens.end_of_turn:
                text.append(ids[position])
            position += 1
            continue
        if tokens.eoi not in ids[position:]:
            break
        end = ids.index(tokens.eoi, position)
        _finish(ids[position + 1 : end], tokens, text, images)
        position = end + 1
    return text, images


def _prompted_image(ids: list[int], tokens: TokenIds) -> int:
    """Where the text begins behind an image that the prompt began; 0 without one."""
    end = ids.index(tokens.eoi) if tokens.eoi in ids else -1
    return end + 1 if tokens.boi not in ids[: end + 1] else 0


def _finish(image: list[int], tokens: TokenIds, text: list[int], images: list[np.ndarray]) -> None:
    codes = image_codes(image, tokens)
    if codes is not None:
        text.append(tokens.image)
        images.append(codes)


def forming(ids: Sequence[int] | Int[np.ndarray, "T"], tokens: TokenIds) -> Int32[np.ndarray, "rows columns"] | None:
    """Codes of an image under way, which the prompt or the last BOI began.

    What is still to come shows the last code. None without such an image, or before its first code.
    """
    ids = [int(i) for i in ids]
    image = ids[len(ids) - ids[::-1].index(tokens.boi) :] if tokens.boi in ids else ids
    codes = [i for i in image[2:] if 0 <= i - tokens.code_offset < tokens.codes]
    if tokens.eoi in image or not codes:
        return None
    rows, columns = (2 * (i - tokens.grid) for i in image[:2])
    return image_codes(image + codes[-1:] * max(0, 2 + rows * (columns + 1) - len(image)), tokens)


def image_codes(ids: Sequence[int], tokens: TokenIds) -> Int32[np.ndarray, "rows columns"] | None:
    """Codes of the ids between BOI and EOI; None if they are not a whole grid of codes."""
    if len(ids) < 2:
        return None
    rows, columns = (2 * (int(i) - tokens.grid) for i in ids[:2])
    if rows <= 0 or columns <= 0 or len(ids) < 2 + rows * (columns + 1):
        return None
    body = np.asarray(ids[2 : 2 + rows * (columns + 1)], np.int32).reshape(rows, columns + 1)
    codes = body[:, :-1] - tokens.code_offset
    return codes if ((codes >= 0) & (codes < tokens.codes)).all() else None
