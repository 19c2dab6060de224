"""UniWeTok's rows: a conversation with pictures becomes ids, targets, slots and blocks (specification, section 8.3).

A picture that is read: ``vision_start res_h res_w {tokens} vision_end``, causal. A picture that is drawn:
``vision_start res_h [res_w {queries}] {tokens} vision_end``, where from the bracket on every P positions are one block
that sees itself both ways and draws the next P tokens. Neither the release nor the paper has the data packer; what is
learnt is text in answers, with the end of the turn, and the tokens of pictures in answers.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from unitok_jax.data.example import IMAGE, BadExample, Example, Turn
from unitok_jax.data.rows import DRAW, ExampleRow, Modality
from unitok_jax.systems.uniwetok.config import UniWeTokConfig
from unitok_jax.systems.uniwetok.vocabulary import Vocabulary

IGNORE = -100  # a label that is not learnt


@dataclasses.dataclass
class _Piece:
    """A run of positions; `labels` are the ids to be predicted at these very positions, `draw` marks the drawing ones,
    `blocks` counts from 0 within the piece (-1: causal)."""

    ids: np.ndarray
    labels: np.ndarray
    modality: np.ndarray
    slots: np.ndarray
    draw: np.ndarray
    blocks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """Rows of one model.

    Attributes:
        config, vocabulary: the model's.
    """

    config: UniWeTokConfig
    vocabulary: Vocabulary

    def conversation(self, example: Example, sizes: list[tuple[int, int]]) -> ExampleRow:
        """Lays out an example for training.

        Args:
            example: user and assistant turns; `IMAGE` symbols stand for its pictures in order.
            sizes: (height, width) in pixels that each picture is brought to.

        Raises:
            BadExample: when symbols and pictures do not match or nothing is to be learnt.
        """
        if not any(turn.role == "assistant" for turn in example.turns):
            raise BadExample("no assistant turn", example.id)
        return self._row(example, list(self._turns(example, sizes)), sizes)

    def unconditional(self, example: Example, sizes: list[tuple[int, int]], draw: bool) -> ExampleRow:
        """The row without what was asked: pictures before the answer stay, the model's own too, every word goes.

        Args:
            example: as `conversation`'s.
            sizes: of its pictures.
            draw: whether a picture comes next; else the last answer of `example` follows.
        """
        pictures, turns = len(self._owners(example, sizes)), example.turns
        last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=0)
        before = pictures if draw else sum(turn.text.count(IMAGE) for turn in turns[:last])
        shown = [self._picture(i, sizes[i], learn=False) for i in range(before)]
        begin = [*shown, self._text(self._head("assistant"), learn=False)]
        if draw:
            return self._row(example, [*begin, self._start()], sizes)
        answer = self._content(turns[last], iter(range(before, pictures)), sizes)
        return self._row(example, [*begin, *answer], sizes)

    def prompt(self, example: Example, sizes: list[tuple[int, int]], draw: bool) -> ExampleRow:
        """Lays out an example up to where the model writes: an answer's words, or, with `draw`, a picture, whose
        size the decode says."""
        pieces = list(self._turns(example, sizes))
        pieces.append(self._text(self._head("assistant"), learn=False))
        if draw:
            pieces.append(self._start())
        return self._row(example, pieces, sizes)

    def _turns(self, example: Example, sizes: list[tuple[int, int]]) -> Iterator[_Piece]:
        pictures = iter(range(len(self._owners(example, sizes))))
        for turn in example.turns:
            yield self._text(self._head(turn.role), learn=False)
            yield from self._content(turn, pictures, sizes)
            yield self._text(self.vocabulary.encode("\n"), learn=False)

    def _content(self, turn: Turn, pictures: Iterator[int], sizes: list[tuple[int, int]]) -> Iterator[_Piece]:
        """What a turn says, and its end."""
        learn = turn.role == "assistant"
        for number, words in enumerate(turn.text.split(IMAGE)):
            if number:
                index = next(pictures)
                yield self._picture(index, sizes[index], learn)
            if words:
                yield self._text(self.vocabulary.encode(words), learn)
        yield self._text([self.vocabulary.ids.im_end], learn)

    def _head(self, role: str) -> list[int]:
        return [self.vocabulary.ids.im_start, *self.vocabulary.encode(f"{role}\n")]

    def _owners(self, example: Example, sizes: list[tuple[int, int]]) -> list[str]:
        """Whose turn each picture stands in, checked against the symbols."""
        owners = [turn.role for turn in example.turns for _ in range(turn.text.count(IMAGE))]
        if len(owners) != len(sizes):
            detail = f"{example.id}: {len(owners)} symbols, {len(sizes)} images"
            raise BadExample("image symbols do not match the images", detail)
        return owners

    def _text(self, ids: list[int], learn: bool) -> _Piece:
        values = np.asarray(ids, np.int32)
        zeros = np.zeros(len(ids), np.int32)
        labels = values if learn else np.full_like(values, IGNORE)
        return _Piece(values, labels, zeros, zeros, zeros.astype(bool), zeros - 1)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.config.vae.factor, size[1] // self.config.vae.factor

    def _start(self) -> _Piece:
        return self._text([self.vocabulary.ids.vision_start], learn=False)

    def _picture(self, index: int, size: tuple[int, int], learn: bool) -> _Piece:
        """Picture `index` of the row: drawn with `learn`, else read."""
        ids, (rows, columns) = self.vocabulary.ids, self._grid(size)
        n, parallel = rows * columns, self.config.parallel_num
        first = ids.block(columns) if learn else [ids.side(columns)]
        head = [ids.vision_start, ids.side(rows)]
        values = np.asarray([*head, *first, *[ids.image_pad] * n, ids.vision_end], np.int32)
        modality, slots = np.zeros_like(values), np.zeros_like(values)
        tokens = slice(len(head) + len(first), len(values) - 1)
        modality[tokens] = Modality.CODE
        slots[tokens] = index * self.config.tokens + np.arange(n)
        draw, blocks = np.zeros(len(values), bool), np.full(len(values), -1, np.int32)
        draw[len(head) : len(head) + n] = learn
        if learn and parallel > 1:
            blocks[len(head) : -1] = np.arange(parallel + n) // parallel
        return _Piece(values, np.full_like(values, IGNORE), modality, slots, draw, blocks)

    def _row(self, example: Example, pieces: list[_Piece], sizes: list[tuple[int, int]]) -> ExampleRow:
        draw = np.concatenate([piece.draw for piece in pieces])
        following = np.append(np.concatenate([piece.labels for piece in pieces])[1:], IGNORE)
        targets = np.where(draw, DRAW, np.where(following == IGNORE, 0, following))
        return ExampleRow(
            tokens=np.concatenate([piece.ids for piece in pieces]).astype(np.int32),
            targets=targets.astype(np.int32),
            loss_weights=(draw | (following != IGNORE)).astype(np.float32),
            modality=np.concatenate([piece.modality for piece in pieces]).astype(np.int8),
            slots=np.concatenate([piece.slots for piece in pieces]).astype(np.int32),
            task=example.task,
            sizes=np.asarray(sizes, np.int32).reshape(-1, 2),
            blocks=_numbered(pieces) if self.config.parallel_num > 1 else None,
        )


def _numbered(pieces: list[_Piece]) -> np.ndarray:
    """The pieces' blocks, counted on over the row."""
    counted, before = [], 0
    for piece in pieces:
        counted.append(np.where(piece.blocks < 0, -1, piece.blocks + before))
        before += int(piece.blocks.max(initial=-1)) + 1
    return np.concatenate(counted).astype(np.int32)
