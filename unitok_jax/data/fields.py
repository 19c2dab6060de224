"""The fields of a raw record, each seen to be what a task may use; `unitok_jax.data.tasks` lists them.

Records come from files that people wrote: whatever a field holds, reading it gives a good value or a `BadExample` that
names the record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from unitok_jax.data import pictures
from unitok_jax.data.example import IMAGE, BadExample, Turn

Record = Mapping[str, Any]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def name(record: Record) -> str:
    """What logs call the record."""
    return str(record.get("id", "?"))


def words(record: Record, field: str, value: Any) -> str:
    """A text without the blanks around it.

    Raises:
        BadExample: if `value` is none or blank, or no Unicode (JSON may write half of a surrogate pair, which no text
            tokenizer takes).
    """
    if not isinstance(value, str) or not value.strip():
        raise BadExample("missing text", f"{name(record)}: {'empty' if field in record else 'no'} {field}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadExample("missing text", f"{name(record)}: {field} is no valid Unicode") from None
    return value.strip()


def text(record: Record, field: str) -> str:
    """The `words` of a field."""
    return words(record, field, record.get(field))


def caption(record: Record, rng: np.random.Generator) -> str:
    """The caption, or one that is drawn from a list."""
    captions = record.get("caption")
    if isinstance(captions, (list, tuple)) and captions:
        captions = captions[int(rng.integers(len(captions)))]
    return words(record, "caption", captions)


def entries(record: Record, field: str) -> Sequence[Any]:
    """A list, its numbers as text (answers to "how many?" come so); empty where the field is none."""
    value = record.get(field)
    found = value if isinstance(value, (list, tuple)) else ()
    return [str(one) if isinstance(one, (int, float)) else one for one in found]


def turn(record: Record, message: Any) -> Turn:
    """One of a record's ``conversations``.

    Raises:
        BadExample: if its speaker is not known or it says nothing.
    """
    message = message if isinstance(message, Mapping) else {}
    role = ROLES.get(str(message.get("from", message.get("role"))))
    if role is None:
        raise BadExample("missing text", f"{name(record)}: a turn without a known speaker")
    said = words(record, "conversations", message.get("value", message.get("content")))
    return Turn(role, said.replace("<image>", IMAGE))


def label(record: Record) -> int | None:
    """The class; None where there is none, which some data sets write as -1.

    Raises:
        BadExample: for anything but a whole number of 31 bits.
    """
    value = record.get("label")
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -2
    if not -1 <= number < 2**31 or (isinstance(value, float) and number != value):
        raise BadExample("other", f"{name(record)}: label {str(value)[:40]!r}, expected a whole number")
    return None if number == -1 else number


def images(record: Record, pictured: Sequence[str]) -> tuple[pictures.Picture, ...]:
    """The decoded pictures of some fields, each of which holds one or a list.

    Raises:
        BadExample: if one is missing, too large or broken.
    """
    values: list[Any] = []
    for field in pictured:
        value = record.get(field)
        if value is None:
            raise BadExample("image missing", f"{name(record)}: no {field}")
        values.extend(value if isinstance(value, (list, tuple)) else (value,))
    try:
        return tuple(pictures.decode(value, record.get("folder")) for value in values)
    except BadExample as error:
        raise BadExample(error.reason, f"{name(record)}: {error.detail}") from None


def codes(record: Record, pictured: Sequence[str]) -> tuple[Integer[np.ndarray, "_ ..."], ...] | None:
    """The precomputed codes of the pictures in some fields, an array each: a record that has a target has its last.

    Raises:
        BadExample: if they are no whole numbers from 0 on.
    """
    found = _coded(record, "codes", pictured)
    return None if found is None else tuple(_whole_numbers(record, one) for one in found)


def grids(record: Record, pictured: Sequence[str]) -> tuple[tuple[int, int], ...] | None:
    """The (rows, columns) of the codes of the pictures in some fields, as `codes`; None where they were not recorded.

    Raises:
        BadExample: if they are no pairs of whole numbers.
    """
    found = _coded(record, "grids", pictured)
    if found is None:
        return None
    shapes = [_whole_numbers(record, one) for one in found]
    if any(shape.shape != (2,) for shape in shapes):
        raise BadExample("no precomputed codes", f"{name(record)}: expected grids of rows and columns")
    return tuple((int(rows), int(columns)) for rows, columns in shapes)


def _coded(record: Record, field: str, pictured: Sequence[str]) -> tuple[Any, ...] | None:
    found = record.get(field)
    if found is None or not pictured:
        return None
    found = tuple(found) if isinstance(found, (list, tuple)) else (found,)
    return found[:1] * len(pictured) if set(pictured) == {"image"} else found


def _whole_numbers(record: Record, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(())
    if array.dtype.kind not in "iu" or not array.ndim or array.min(initial=0) < 0:
        raise BadExample("no precomputed codes", f"{name(record)}: expected an array of whole numbers for each picture")
    return array
