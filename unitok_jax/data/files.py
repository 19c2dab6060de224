"""Files named in a config: local or in a bucket, told by name when missing."""

import numpy as np
from etils import epath

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
        raise BadExample("file cannot be read", f"{path}: {error}") from None
    if len(data) < length:
        raise BadExample("file cannot be read", f"{path}: ends within a record")
    return data


def line_spans(path: epath.Path) -> np.ndarray:
    """(start byte, length) of every line that is not blank, int64 [lines, 2], and its number in a third column."""
    spans, start = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                spans.append((start, len(line), number))
            start += len(line)
    return np.array(spans, np.int64).reshape(-1, 3)
