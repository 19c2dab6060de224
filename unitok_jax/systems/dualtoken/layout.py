"""DualToken's rows: a conversation with pictures in Qwen's chat format (our design, specification section 10.2).

A picture reads ``<|vision_start|> {one image_pad a position} <|vision_end|>``. Learnt are the assistant's words, the
ends of its turns, and the positions and the end of the pictures that it draws.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from unitok_jax.data.example import IMAGE, BadExample, Example, Task
from unitok_jax.data.rows import DRAW, ExampleRow, Modality
from unitok_jax.systems.dualtoken.vocabulary import Vocabulary

IGNORE = -100  # a label that is not learnt


@dataclasses.dataclass(frozen=True)
class Template:
    """How rows are written.

    Attributes:
        vocabulary: words and ids.
        positions: of a picture.
        system: the system message; empty leaves the system's turn out.
        learn_start: whether a drawn picture's ``<|vision_start|>`` is learnt, for models that decide to draw.
    """

    vocabulary: Vocabulary
    positions: int
    system: str = "You are a helpful assistant."
    learn_start: bool = False


@dataclasses.dataclass
class _Piece:
    """A run of positions; `labels` are the ids to be predicted at these very positions, DRAW or IGNORE."""

    ids: np.ndarray
    labels: np.ndarray
    modality: np.ndarray
    slots: np.ndarray


def conversation(example: Example, template: Template) -> ExampleRow:
    """Lays out an example for training.

    Raises:
        BadExample: when symbols and images do not match or nothing is to be learnt.
    """
    if not any(turn.role == "assistant" for turn in example.turns):
        raise BadExample("no assistant turn", example.id)
    return _row(example, list(_pieces(example, template)))


def prompt(example: Example, template: Template) -> ExampleRow:
    """Lays out an example up to where the model writes: the assistant's turn, or the picture that it is to draw."""
    ids, words = template.vocabulary.ids, template.vocabulary.encode
    pieces = [*_pieces(example, template), _text([ids.turn_start, *words("assistant\n")])]
    if example.task == Task.GENERATION:
        pieces.append(_text([ids.vision_start]))
    return _row(example, pieces)


def unasked(example: Example) -> Example:
    """The example without its requests: what guidance compares with."""
    turns = tuple(dataclasses.replace(t, text="") if t.role == "user" else t for t in example.turns)
    kept = sum(turn.text.count(IMAGE) for turn in turns)
    codes = None if example.codes is None else example.codes[len(example.codes) - kept :]
    return dataclasses.replace(example, turns=turns, images=example.images[len(example.images) - kept :], codes=codes)


def _pieces(example: Example, template: Template) -> Iterator[_Piece]:
    ids, words = template.vocabulary.ids, template.vocabulary.encode
    images = iter(range(_placed(example)))
    if template.system:
        yield _text([ids.turn_start, *words(f"system\n{template.system}"), ids.turn_end, *words("\n")])
    for turn in example.turns:
        learn = turn.role == "assistant"
        opening, segments = f"{turn.role}\n", turn.text.split(IMAGE)
        yield _text([ids.turn_start])
        for number, segment in enumerate(segments):
            if number:
                yield _image(next(images), template, learn)
                if segment and not learn and not segment.startswith("\n"):
                    segment = "\n" + segment  # the picture and what is asked of it, on lines of their own
            if learn and not number:
                yield _text(words(opening))
                opening = ""
            if opening + segment:
                yield _text(words(opening + segment), learn)
            opening = ""
        yield _text([ids.turn_end], learn)
        yield _text(words("\n"))


def _placed(example: Example) -> int:
    """The number of pictures, checked against the symbols that stand for them."""
    symbols = sum(turn.text.count(IMAGE) for turn in example.turns)
    images = len(example.codes if example.codes is not None else example.images)
    if symbols != images:
        raise BadExample("image symbols do not match the images", f"{example.id}: {symbols} symbols, {images} images")
    return images


def _text(ids: list[int], learn: bool = False) -> _Piece:
    values, zeros = np.asarray(ids, np.int32), np.zeros(len(ids), np.int32)
    return _Piece(values, values if learn else np.full_like(values, IGNORE), zeros, zeros)


def _image(index: int, template: Template, learn: bool) -> _Piece:
    ids, length = template.vocabulary.ids, template.positions
    values = np.array([ids.vision_start, *[ids.image_pad] * length, ids.vision_end], np.int32)
    modality, slots = np.zeros_like(values), np.zeros_like(values)
    modality[1:-1] = Modality.CODE
    slots[1:-1] = index * length + np.arange(length)
    labels = np.where(modality == Modality.CODE, DRAW, values) if learn else np.full_like(values, IGNORE)
    if not template.learn_start:
        labels[0] = IGNORE
    return _Piece(values, labels, modality, slots)


def _row(example: Example, pieces: list[_Piece]) -> ExampleRow:
    following = np.append(np.concatenate([piece.labels for piece in pieces])[1:], IGNORE)
    learnt = following != IGNORE
    return ExampleRow(
        tokens=np.concatenate([piece.ids for piece in pieces]).astype(np.int32),
        targets=np.where(learnt, following, 0).astype(np.int32),
        loss_weights=learnt.astype(np.float32),
        modality=np.concatenate([piece.modality for piece in pieces]).astype(np.int8),
        slots=np.concatenate([piece.slots for piece in pieces]).astype(np.int32),
        task=example.task,
        sizes=np.asarray([image.shape[:2] for image in example.images], np.int32).reshape(-1, 2),
    )
