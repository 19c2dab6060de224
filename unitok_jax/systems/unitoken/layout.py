"""UniToken's rows: a conversation with images becomes ids, targets and slots.

An image reads ``BOI h w {codes, newline a row} SEP {features} EOI``; every turn ends with an end-of-turn id. Under
AnyRes the features are those of an overview and of tiles, and a newline id ends each row of the tiles' features
(UniToken specification, section 8; the released item processor and ``ChameleonXLLMXForConditionalGeneration``).
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int, Int32

from unitok_jax.data.example import IMAGE, BadExample, Example, Turn
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.errors import UserError
from unitok_jax.systems.unitoken.anyres import ROW_END, AnyRes
from unitok_jax.systems.unitoken.vocabulary import TokenIds, Vocabulary

IGNORE = -100  # a label that is not learnt
Run = Int32[np.ndarray, " n"]
Part = tuple[Run, Run, Run]  # ids, modality, slots


@dataclasses.dataclass(frozen=True)
class ImageShape:
    """How an image stands in a row.

    Attributes:
        rows, columns: of its codes.
        features: that one picture of the tower gives.
        anyres: how an image becomes several pictures; None in the base variant, where it is one.
    """

    rows: int
    columns: int
    features: int
    anyres: AnyRes | None = None

    @property
    def most_features(self) -> int:
        """The most positions that the features (and row ends) of one image take."""
        return self.anyres.most_features if self.anyres else self.features

    @property
    def most_pictures(self) -> int:
        """The most pictures that the tower sees of one image."""
        return self.anyres.most_pictures if self.anyres else 1

    def order(self, image: Picture) -> Int32[np.ndarray, " n"]:
        """Features of an image in reading order, counted from its first picture; `ROW_END` between."""
        if self.anyres is None:
            return np.arange(self.features, dtype=np.int32)
        return self.anyres.order(image.shape[1], image.shape[0])

    def outputs(self, image: Picture) -> int:
        """Features of all pictures of an image, read or not."""
        return self.features * (self.anyres.count(image.shape[1], image.shape[0]) if self.anyres else 1)


@dataclasses.dataclass
class _Piece:
    """A run of positions; `labels` are the ids to be predicted at these very positions, or IGNORE."""

    ids: np.ndarray
    labels: np.ndarray
    modality: np.ndarray
    slots: np.ndarray


def conversation(example: Example, vocabulary: Vocabulary, shape: ImageShape, answer_features: bool) -> ExampleRow:
    """Lays out an example for training: the assistant's turns are learnt, and the SEP of every image.

    Args:
        example: user and assistant turns; `IMAGE` symbols stand for its images in order. Images without any
            symbol are put in front of the first turn, as released.
        shape: how each image stands in the row.
        answer_features: whether images in answers carry SEP and features behind their codes (as released). The
            codes come before, so they cannot learn from them.

    Raises:
        BadExample: when symbols and images do not match or nothing is to be learnt.
    """
    if not any(turn.role == "assistant" for turn in example.turns):
        raise BadExample("no assistant turn", example.id)
    runs = _feature_runs(example, shape, answer_features)
    return _row(example, list(_pieces(example, vocabulary, shape, runs)))


def prompt(example: Example, vocabulary: Vocabulary, shape: ImageShape, draw: bool, context: int) -> ExampleRow:
    """Lays out an example up to where the model writes: after the last user turn.

    Args:
        example: see `conversation`.
        vocabulary: of text and specials.
        shape: how each image stands in the row.
        draw: the fixed prefix of an image answer follows, ending in BOI, as in the released text-to-image path.
        context: the most ids that the model takes; what SEP and features add is not counted.

    Raises:
        UserError: for more ids than that.
        BadExample: when symbols and images do not match.
    """
    runs = _feature_runs(example, shape, answer_features=True)
    pieces = list(_pieces(example, vocabulary, shape, runs))
    if draw:
        pieces.append(_text([*vocabulary.ids.image_prefix, vocabulary.ids.boi], learn=False))
    added = sum(1 + len(run) for run in runs.values())
    ids = sum(len(piece.ids) for piece in pieces) - added
    if ids > context:
        raise UserError(f"{example.id}: the prompt has {ids} ids, the model's context is {context}: shorten it")
    return _row(example, pieces)


def image_start(ids: TokenIds, example: Example) -> ExampleRow:
    """The row of an unconditional branch: its context begins at BOI, without the text before it."""
    return _row(dataclasses.replace(example, images=(), codes=None), [_text([ids.boi], learn=False)])


def featured(example: Example, answer_features: bool) -> list[int]:
    """Indices of the images whose features stand in the row: all, or those of user turns."""
    owners = [turn.role for turn in _with_symbols(example) for _ in range(turn.text.count(IMAGE))]
    return [i for i, role in enumerate(owners) if answer_features or role == "user"]


def id_count(example: Example, vocabulary: Vocabulary, shape: ImageShape) -> int:
    """Ids of an example's row without SEP and features: the length that the release records.

    Of the pictures only their number counts.

    Raises:
        BadExample: when symbols and images do not match.
    """
    return sum(len(piece.ids) for piece in _pieces(example, vocabulary, shape, {}))


def _pieces(
    example: Example, vocabulary: Vocabulary, shape: ImageShape, runs: Mapping[int, np.ndarray]
) -> Iterator[_Piece]:
    """The row, piece by piece; `runs` are the features of those images that have them (`_feature_runs`)."""
    ids = vocabulary.ids
    images = iter(range(_placed(example)))
    yield _text([ids.bos], learn=False)
    for turn in _with_symbols(example):
        learn = turn.role == "assistant"
        segments = turn.text.split(IMAGE)
        for i, segment in enumerate(segments):
            if segment:
                yield _text(vocabulary.encode(segment), learn)
            elif learn and i == 0 and len(segments) > 1:
                yield _text(list(ids.image_prefix), learn)  # what `prompt` puts before an image that is to be drawn
            if i + 1 < len(segments):
                image = next(images)
                yield _image(image, runs.get(image), ids, shape, learn)
        yield _text([ids.end_of_turn], learn)


def _feature_runs(example: Example, shape: ImageShape, answer_features: bool) -> dict[int, np.ndarray]:
    """For each image whose features stand in the row, their slots in reading order, `ROW_END` between."""
    _placed(example)  # symbols and images are one each before any image is looked at
    runs, before = {}, 0
    for index in featured(example, answer_features):
        image = picture(example, index)
        order = shape.order(image)
        runs[index] = np.where(order == ROW_END, ROW_END, order + before)
        before += shape.outputs(image)
    return runs


def picture(example: Example, index: int) -> Picture:
    """An image of which features are wanted.

    Raises:
        BadExample: if there are only its codes.
    """
    if index >= len(example.images):
        raise BadExample("image missing", f"{example.id}: features need the picture, not its codes alone")
    return example.images[index]


def _placed(example: Example) -> int:
    """The number of images, checked against the symbols that stand for them."""
    symbols = sum(turn.text.count(IMAGE) for turn in _with_symbols(example))
    images = len(example.codes if example.codes is not None else example.images)
    if symbols != images:
        raise BadExample("image symbols do not match the images", f"{example.id}: {symbols} symbols, {images} images")
    return images


def _with_symbols(example: Example) -> tuple[Turn, ...]:
    images = len(example.codes if example.codes is not None else example.images)
    if not images or any(IMAGE in turn.text for turn in example.turns):
        return example.turns
    first, *rest = example.turns
    return (dataclasses.replace(first, text=f"{IMAGE} " * images + first.text), *rest)


def _text(ids: list[int], learn: bool) -> _Piece:
    values = np.asarray(ids, np.int32)
    zeros = np.zeros(len(ids), np.int32)
    return _Piece(values, values if learn else np.full_like(values, IGNORE), zeros, zeros)


def _image(index: int, run: np.ndarray | None, ids: TokenIds, shape: ImageShape, learn: bool) -> _Piece:
    """Image `index` of the row; its features are those of the slots `run`, or left out where that is None.

    The codes' ids are left at the offset, to be written where the codes are known.
    """
    codes = code_part(index, ids, shape)
    values, modality, slots = (np.concatenate(parts) for parts in zip(codes, feature_part(run, ids), strict=True))
    labels = np.where((np.arange(len(values)) < len(codes[0])) & learn, values, IGNORE)
    labels[-1] = ids.eoi if learn else IGNORE
    if run is not None:
        labels[len(codes[0])] = ids.sep  # learnt even where the image belongs to the question, as released
    return _Piece(values, labels, modality, slots)


def code_part(index: int, ids: TokenIds, shape: ImageShape) -> Part:
    """(ids, modality, slots) of ``BOI h w {codes, newline a row}``."""
    head = [ids.boi, ids.grid + shape.rows // 2, ids.grid + shape.columns // 2]
    code = np.ones((shape.rows, shape.columns + 1), bool)
    code[:, -1] = False
    body = np.where(code, ids.code_offset, ids.newline).ravel()
    values = np.concatenate([head, body]).astype(np.int32)
    modality, slots = np.zeros_like(values), np.zeros_like(values)
    at = np.flatnonzero(code) + len(head)
    modality[at] = Modality.CODE
    slots[at] = index * len(at) + np.arange(len(at))
    return values, modality, slots


def feature_part(run: Int[np.ndarray, " features"] | None, ids: TokenIds) -> Part:
    """(ids, modality, slots) of ``SEP {features, newline a row} EOI``, or of a lone EOI.

    Args:
        run: slots of the features in reading order, `ROW_END` where a row ends; None leaves them out.
        ids: the ids with a meaning.
    """
    if run is None:
        return np.array([ids.eoi], np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    values = np.array([ids.sep, *np.where(run == ROW_END, ids.newline, ids.bos), ids.eoi], np.int32)
    modality, slots = np.zeros_like(values), np.zeros_like(values)
    modality[1:-1] = np.where(run == ROW_END, Modality.TEXT, Modality.FEATURE)
    slots[1:-1] = np.where(run == ROW_END, 0, run)
    return values, modality, slots


def _row(example: Example, pieces: list[_Piece]) -> ExampleRow:
    labels = np.concatenate([piece.labels for piece in pieces])
    following = np.append(labels[1:], IGNORE)
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
