"""Tar's rows: Qwen's chat format, pictures as ids of codes, and which ids are learnt.

Source: ``dataset`` and ``llava_arch`` of the released code, which first makes ids with a placeholder for each picture
and then puts the picture's codes in its place; so does this file.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from unitok_jax.data.example import IMAGE, BadExample, Example, Turn
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.systems.tar.vocabulary import Vocabulary

IGNORE = -100  # a label that is not learnt
PLACE = -200  # stands for a picture among ids
SYSTEM = "You are a helpful assistant."
Labels = Literal["released", "answers"]


@dataclasses.dataclass(frozen=True)
class PictureShape:
    """How a picture's codes lie at each pool scale, one scale after the other.

    Attributes:
        scales: pool scales.
        tokens: codes at each of them.
    """

    scales: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """Codes of a picture at all scales together."""
        return sum(self.tokens)

    def span(self, scale: int) -> tuple[int, int]:
        """(first, number) of the codes of a scale."""
        index = self.scales.index(scale)
        return sum(self.tokens[:index]), self.tokens[index]


def messages(turns: Sequence[Turn], vocabulary: Vocabulary, rule: Labels = "released") -> tuple[list[int], list[int]]:
    """Ids with `PLACE` for each picture, and labels, of the system message and all turns.

    Under ``released`` the assistant's whole messages are learnt, header and end included, and so are, wherever they
    stand, newlines and the ids that begin and end messages. Under ``answers`` it is what the assistant says and the
    end of its message.
    """
    ids: list[int] = []
    labels: list[int] = []
    for turn in (Turn("system", SYSTEM), *turns):
        learn = turn.role == "assistant"
        new = _message(turn, vocabulary, tagged=learn)
        ids += new
        labels += _labels(new, learn, vocabulary, rule)
    return ids, labels


def _message(turn: Turn, vocabulary: Vocabulary, *, tagged: bool) -> list[int]:
    marks = vocabulary.ids
    picture = [marks.image_start, PLACE, marks.image_end] if tagged else [PLACE]
    first, *rest = f"{turn.role}\n{turn.text}".split(IMAGE)
    ids = [marks.turn_start, *vocabulary.encode(first)]
    for text in rest:
        ids += [*picture, *vocabulary.encode(text)]
    return [*ids, marks.turn_end, *vocabulary.encode("\n")]


def _labels(ids: list[int], learn: bool, vocabulary: Vocabulary, rule: Labels) -> list[int]:
    marks = vocabulary.ids
    if rule == "released":
        everywhere = (marks.newline, marks.turn_start, marks.turn_end)
        shown = [vocabulary.size if i == PLACE else i for i in ids]  # the label of a picture that its codes replace
        return [i if learn or i in everywhere else IGNORE for i in shown]
    header = 1 + len(vocabulary.encode("assistant\n"))
    end = len(ids) - len(vocabulary.encode("\n"))
    return [i if learn and header <= at < end else IGNORE for at, i in enumerate(ids)]


def expand(
    ids: Sequence[int], labels: Sequence[int], scales: Sequence[int], shape: PictureShape, vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """Puts each picture's codes in its place; a picture behind a learnt image tag is announced by its scale.

    Args:
        ids, labels: from `messages`.
        scales: the pool scale of each picture.
        shape: how its codes lie.
        vocabulary: of the ids.

    Returns:
        ``tokens``, ``labels`` (those of this very position), ``modality`` and ``slots``, int32 [S]. Where codes stand
        the ids are that of code 0.
    """
    marks, rows, picture = vocabulary.ids, [], 0
    before = IGNORE
    for token, label in zip(ids, labels, strict=True):
        if token != PLACE:
            rows.append((token, label, Modality.TEXT, 0))
        else:
            learn = before == marks.image_start
            if learn:
                announced = marks.scale + scales[picture] - 1
                rows.append((announced, announced, Modality.TEXT, 0))
            first, count = shape.span(scales[picture])
            start = picture * shape.outputs + first
            code = (marks.code_offset, marks.code_offset if learn else IGNORE, Modality.CODE)
            rows += [(*code, start + i) for i in range(count)]
            picture += 1
        before = label
    columns = np.array(rows, np.int32).reshape(-1, 4).T
    return dict(zip(("tokens", "labels", "modality", "slots"), columns, strict=True))


def conversation(
    example: Example,
    vocabulary: Vocabulary,
    shape: PictureShape,
    scales: Sequence[int],
    rule: Labels,
    longest: int | None,
) -> ExampleRow:
    """Lays out an example for training.

    Args:
        example: user and assistant turns.
        vocabulary, shape: see `expand`.
        scales: of each picture.
        rule: see `messages`.
        longest: positions after which the row is cut off, as released; None leaves it whole.

    Raises:
        BadExample: when symbols and pictures do not match, or nothing is to be learnt.
    """
    if not any(turn.role == "assistant" for turn in example.turns):
        raise BadExample("no assistant turn", example.id)
    fields = expand(*messages(placed(example), vocabulary, rule), scales, shape, vocabulary)
    return _row(example, {name: values[:longest] for name, values in fields.items()})


def prompt(example: Example, vocabulary: Vocabulary, shape: PictureShape, scale: int, *, draw: bool) -> ExampleRow:
    """Lays out an example up to where the model writes; with `draw` up to where a picture's scale stands."""
    ids, _ = messages(placed(example), vocabulary)
    ids += [vocabulary.ids.turn_start, *vocabulary.encode("assistant\n")]
    if draw:
        ids.append(vocabulary.ids.image_start)
    silent = [IGNORE] * len(ids)
    return _row(example, expand(ids, silent, [scale] * ids.count(PLACE), shape, vocabulary))


def placed(example: Example) -> tuple[Turn, ...]:
    """The turns, pictures without a symbol in front of the first one.

    Raises:
        BadExample: unless there are as many symbols as pictures.
    """
    pictures = len(example.codes if example.codes is not None else example.images)
    turns = example.turns
    symbols = sum(turn.text.count(IMAGE) for turn in turns)
    if pictures and not symbols:
        first, *rest = turns
        return (dataclasses.replace(first, text=f"{IMAGE}\n" * pictures + first.text), *rest)
    if symbols != pictures:
        raise BadExample("image symbols do not match the images", f"{example.id}: {symbols} symbols, {pictures} images")
    return turns


def _row(example: Example, fields: dict[str, np.ndarray]) -> ExampleRow:
    following = np.append(fields["labels"][1:], IGNORE)
    learnt = following != IGNORE
    return ExampleRow(
        tokens=fields["tokens"],
        targets=np.where(learnt, following, 0).astype(np.int32),
        loss_weights=learnt.astype(np.float32),
        modality=fields["modality"].astype(np.int8),
        slots=fields["slots"],
        task=example.task,
        sizes=np.asarray([image.shape[:2] for image in example.images], np.int32).reshape(-1, 2),
    )
