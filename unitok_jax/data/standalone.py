"""Records that need nothing beside them: their pictures as bytes in the place of paths."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.data import pictures, records
from unitok_jax.data.example import BadExample
from unitok_jax.data.pictures import Picture

FIELDS = ("image", "images", "target")  # the pictures of a record, in the order in which its codes stand


def stand_alone(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The record with its pictures themselves in the place of their paths, as encoded as they were, and an ``id``.

    Args:
        record: of some source; ``folder`` is what its paths are relative to, and is left out.
        index: its place in the source, which names it where nothing else does.

    Raises:
        BadExample: if a picture's file cannot be read, or a field cannot be kept in a shard.
    """
    whole: dict[str, Any] = {"id": str(index), **record}
    folder = whole.pop("folder", None)
    for name in FIELDS:
        value = whole.get(name)
        if isinstance(value, list | tuple):
            whole[name] = [_contents(one, folder) for one in value]
        elif value is not None:
            whole[name] = _contents(value, folder)
    try:
        records.encode({name: value for name, value in whole.items() if name not in FIELDS})
    except TypeError as error:
        raise BadExample("record cannot be read", f"{whole['id']}: {error}") from None
    return whole


def decoded(record: Mapping[str, Any]) -> list[Picture]:
    """All pictures of a record that stands alone.

    Raises:
        BadExample: if there is none, or one cannot be decoded.
    """
    values: list[Any] = []
    for name in FIELDS:
        if name in record:
            values += record[name] if isinstance(record[name], list | tuple) else [record[name]]
    if not values:
        raise BadExample("image missing", f"{record['id']}: none of {', '.join(FIELDS)}")
    try:
        return [pictures.decode(value) for value in values]
    except BadExample as error:
        raise BadExample(error.reason, f"{record['id']}: {error.detail}") from None


def _contents(value: Any, folder: str | None) -> Any:
    return pictures.read(value, folder) if isinstance(value, str) else value
