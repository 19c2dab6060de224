"""Tar's decode: text until a message ends; behind a scale as many codes as a picture of that scale has.

Source: the released ``t2i_inference`` and ``i2t_inference`` (specification, section 6.6), which draw a picture's codes
freely from the whole vocabulary, read whatever codes came, and fill up with code 0.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Int32

from unitok_jax.errors import UserError
from unitok_jax.sampling import filters, guidance, repetition
from unitok_jax.sampling.draw import Keys, draw_by_mode
from unitok_jax.sampling.settings import Decoding, Sampling
from unitok_jax.systems.base import Batch, Emission
from unitok_jax.systems.tar.vocabulary import TokenIds


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What may follow what.

    Attributes:
        ids: the ids with a meaning.
        sides: rows (and columns) of a picture's codes at pool scale 1, 2, ...
        scale: the pool scale of pictures to be drawn; `Decoding.grid` overrides it.
        constrain: pictures are made of codes alone; released: False.
        penalty: on ids of text that were said before, outside pictures; 1 is none.
    """

    ids: TokenIds
    sides: tuple[int, ...]
    scale: int = 1
    constrain: bool = False
    penalty: float = 1.0

    def drawn_scale(self, decoding: Decoding) -> int:
        """The pool scale to draw at.

        Raises:
            UserError: for a grid that no scale has.
        """
        if decoding.grid is None:
            return self.scale
        grids = [(side, side) for side in self.sides]
        if tuple(decoding.grid) not in grids:
            raise UserError(f"grid {decoding.grid}: no pool scale has it; the scales have {grids}")
        return grids.index(tuple(decoding.grid)) + 1


class DecodeState(struct.PyTreeNode):
    """Where each of B samples stands.

    Attributes:
        left: int32 [B], codes of the picture that are still to come.
        announced: bool [B], an image has begun and its scale comes next.
        drawing: bool [B], the sample ends with its picture.
        done: bool [B].
        said: bool [B, V], ids of text so far, or None without a penalty.
    """

    left: Int[Array, "B"]
    announced: Bool[Array, "B"]
    drawing: Bool[Array, "B"]
    done: Bool[Array, "B"]
    said: Bool[Array, "B V"] | None


def decode_init(grammar: Grammar, batch: Batch, decoding: Decoding) -> DecodeState:
    """The state after the prompts of `batch`: `tokens` and `segments` int32 [R, S] (0 = padding on the right)."""
    tokens = guidance.conditional(batch["tokens"], decoding)
    lengths = (guidance.conditional(batch["segments"], decoding) > 0).sum(axis=1)
    last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]
    left = _codes_behind(grammar, last)
    announced = last == grammar.ids.image_start
    said = None
    if grammar.penalty != 1:
        real = jnp.where(jnp.arange(tokens.shape[1]) < lengths[:, None], tokens, grammar.ids.size)
        text = jnp.where(real < grammar.ids.code_offset, real, grammar.ids.size)
        said = repetition.mark(jnp.zeros((len(tokens), grammar.ids.size), bool), text)
    return DecodeState(left, announced, announced | (left > 0), jnp.zeros(lengths.shape, bool), said)


def _codes_behind(grammar: Grammar, ids: Int[Array, "B"]) -> Int[Array, "B"]:
    """How many codes an id announces: those of a scale, 0 for any other id."""
    scale = ids - grammar.ids.scale
    counts = jnp.array([side**2 for side in grammar.sides], jnp.int32)
    known = (scale >= 0) & (scale < len(grammar.sides))
    return jnp.where(known, counts[jnp.clip(scale, 0, len(grammar.sides) - 1)], 0)


def observe(grammar: Grammar, state: DecodeState, codes: Int[Array, "B"]) -> DecodeState:
    """The state after one more id a sample; a sample that is done stays as it is."""
    ids, inside = grammar.ids, state.left > 0
    left = jnp.where(inside, state.left - 1, _codes_behind(grammar, codes))
    over = (codes == ids.turn_end) | (codes == ids.end_of_text) | (inside & (left == 0) & state.drawing)
    said = None if state.said is None else repetition.mark(state.said, codes[:, None])
    return DecodeState(
        left=jnp.where(state.done, state.left, left),
        announced=(codes == ids.image_start) & ~inside,
        drawing=state.drawing,
        done=state.done | over,
        said=said,
    )


def scores(
    grammar: Grammar, logits: Float[Array, "R V"], state: DecodeState, decoding: Decoding
) -> Float[Array, "B V"]:
    """Guided logits with what may not come next at -inf."""
    ids, inside = grammar.ids, state.left > 0
    vocabulary = jnp.arange(logits.shape[-1])
    guided = guidance.guide(logits, decoding, where=inside)
    if state.said is not None:
        padded = jnp.pad(state.said, ((0, 0), (0, logits.shape[-1] - state.said.shape[-1])))
        guided = repetition.penalise(guided, padded & ~inside[:, None], grammar.penalty)
    code = (vocabulary >= ids.code_offset) & (vocabulary < ids.size)
    narrow = inside[:, None] & grammar.constrain
    masked = filters.keep_allowed(guided, jnp.where(narrow, code, vocabulary < ids.size))
    scale = jnp.full(inside.shape, ids.scale + grammar.drawn_scale(decoding) - 1)
    return filters.force(masked, scale, state.announced)


def draw(masked: Float[Array, "B V"], keys: Keys, decoding: Decoding, inside: Bool[Array, "B"]) -> Int[Array, "B"]:
    """Draws ids, the temperature before the filters, as Hugging Face's ``generate`` has it."""

    def warm(sampling: Sampling) -> Sampling:
        return sampling if sampling.temperature == 0 else dataclasses.replace(sampling, temperature=1.0)

    image, text = decoding.image, decoding.text
    rates = jnp.where(inside, image.temperature or 1.0, text.temperature or 1.0)
    return draw_by_mode(masked / rates[:, None], keys, warm(image), warm(text), inside)


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
        decoding: the draws in text and in pictures, the guidance scale (the release has none here).
        keys: [B], one a sample, for this step.
    """
    drawn = draw(scores(grammar, logits, state, decoding), keys, decoding, state.left > 0)
    codes = jnp.where(state.done, grammar.ids.end_of_text, drawn)
    after = observe(grammar, state, codes)
    rows = guidance.to_rows(codes, decoding)
    done = guidance.to_rows(after.done, decoding)
    return Emission(rows[:, None], embed_ids(rows), done, jnp.zeros_like(done)), after


def read_ids(
    ids: Sequence[int] | Int[np.ndarray, "T"], grammar: Grammar
) -> tuple[list[int], list[Int32[np.ndarray, "_ _"]]]:
    """Splits decoded ids into ids of text and pictures' codes, [side, side] each.

    A scale begins a picture, which takes the codes up to the next scale: cut off, or filled up with code 0, to as many
    as the scale has. Codes in front of any scale belong to a picture that the prompt began.
    """
    marks = grammar.ids
    text: list[int] = []
    begun: list[tuple[int, list[int]]] = []
    for i in map(int, ids):
        if marks.scale <= i < marks.scale + marks.scales:
            begun.append((i - marks.scale, []))
        elif marks.code_offset <= i < marks.size:
            begun = begun or [(grammar.scale - 1, [])]
            begun[-1][1].append(i - marks.code_offset)
        elif i < marks.image_start:
            text.append(i)
    return text, [_square(codes, grammar.sides[scale]) for scale, codes in begun]


def _square(codes: list[int], side: int) -> np.ndarray:
    filled = np.zeros(side * side, np.int32)
    kept = codes[: side * side]
    filled[: len(kept)] = kept
    return filled.reshape(side, side)
