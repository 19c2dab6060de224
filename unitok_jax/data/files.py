"""Files named in a config: local or in a bucket, told by name when missing."""

import json
import uuid
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int64

from unitok_jax.data.example import BadExample
from unitok_jax.errors import UserError


def existing(path: str, owner: str) -> epath.Path:
    """`path`, if there is such a file or folder.

    Args:
        path: local, or in a bucket (``gs://``, ``s3://``).
        owner: the kind of source that wants it, for the message.

    Raises:
        UserError: if there is none.
    """
    found = epath.Path(path).expanduser()
    if not found.exists():
        raise UserError(f"{owner}: no such file or folder: {path}. Correct the path in config.data.")
    return found


def matching(pattern: str, owner: str) -> tuple[epath.Path, ...]:
    """The files that a path or a glob in its last part (``shards/*.tar``) names, sorted.

    Raises:
        UserError: if there is none.
    """
    path = epath.Path(pattern).expanduser()
    found = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else [existing(pattern, owner)]
    if not found:
        raise UserError(f"{owner}: no file matches {pattern}. Correct the path in config.data.")
    return tuple(found)


def below(pattern: str) -> tuple[epath.Path, ...]:
    """The files that a path, a folder or a glob in a path's last part names, sorted; none if there is nothing."""
    path = epath.Path(pattern).expanduser()
    if path.is_dir():
        return tuple(sorted(file for file in path.iterdir() if not file.is_dir()))
    if any(c in path.name for c in "*?["):
        return tuple(sorted(path.parent.glob(path.name)))
    return (path,) if path.exists() else ()


def read_span(path: epath.Path, start: int, length: int) -> bytes:
    """`length` bytes of a file from byte `start` on.

    Raises:
        BadExample: if the file cannot be read or has become shorter.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise BadExample("record cannot be read", f"{path}: {error}") from None
    if len(data) < length:
        raise BadExample("record cannot be read", f"{path}: ends within a record")
    return data


def json_object(text: bytes, name: str) -> dict[str, Any]:
    """Parses one record.

    Raises:
        BadExample: if it is not a JSON object; `name` says which one.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadExample("bad JSON line", f"{name}: {error}") from None
    if not isinstance(record, dict):
        raise BadExample("bad JSON line", f"{name}: not an object")
    return record


def line_spans(path: epath.Path) -> Int64[np.ndarray, "lines 3"]:
    """(start byte, length, line number) of every line that is not blank."""
    spans, start = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                spans.append((start, len(line), number))
            start += len(line)
    return np.array(spans, np.int64).reshape(-1, 3)


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file so that it is either there whole or not at all."""
    part = path.parent / f"{path.name}.part-{uuid.uuid4().hex}"
    part.write_bytes(content)
    part.replace(path)
