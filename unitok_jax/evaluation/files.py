"""Result files, replaced whole: a reader never sees half of one, and a killed run leaves the old one."""

import contextlib
import json
from collections.abc import Generator, Iterable, Mapping
from typing import IO, Any

import numpy as np
from etils import epath
from PIL import Image

from unitok_jax.data.pictures import Picture


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Generator[IO[bytes]]:
    """Opens a file for writing that takes the place of `path` only once everything is written."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished"
    with unfinished.open("wb") as file:
        yield file
    unfinished.replace(path)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes UTF-8 text."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes one JSON value, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: epath.PathLike) -> Any:
    """Reads one JSON value."""
    return json.loads(epath.Path(path).read_text())


def write_rows(path: epath.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    write_text(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads one JSON object a line."""
    return [json.loads(line) for line in epath.Path(path).read_text().splitlines()]


def write_picture(path: epath.PathLike, picture: Picture) -> None:
    """Writes a picture as PNG."""
    with replacing(path) as file:
        Image.fromarray(picture).save(file, format="PNG", optimize=True)


def read_picture(path: epath.PathLike) -> Picture:
    """Reads a picture."""
    with epath.Path(path).open("rb") as file:
        return np.asarray(Image.open(file).convert("RGB"))


def keep_only(folder: epath.Path, kept: set[str]) -> None:
    """Removes the pictures of an earlier evaluation with other settings; `kept` are ``<folder>/<file>`` each."""
    for path in folder.glob("*.png"):
        if f"{folder.name}/{path.name}" not in kept:
            path.unlink()
