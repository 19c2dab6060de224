"""A JSONL file, one record a line, beside a folder of pictures."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from unitok_jax.data import files
from unitok_jax.data.example import BadExample


@dataclasses.dataclass
class Source:
    """Lines such as ``{"image": "7.png", "caption": "a red seven"}``.

    Only the lines' places are kept in memory.

    Attributes:
        path: the JSONL file.
        images: the folder that pictures' paths are relative to; by default the file's own.
    """

    path: str
    images: str | None = None

    def __post_init__(self):
        self._path = files.existing(self.path, "jsonl")
        self._folder = files.existing(self.images, "jsonl") if self.images else self._path.parent
        self._spans = files.line_spans(self._path)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, length, number = map(int, self._spans[index])
        return self._record(files.read_span(self._path, start, length), number)

    def scan(self) -> Iterator[dict[str, Any] | None]:
        """All records in order, the file opened once; None for a line that is not a record."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield self._record(line, number)
                    except BadExample:
                        yield None

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        name = f"{self._path.name}:{number}"
        return {"id": name, **files.json_object(line, name), "folder": str(self._folder)}
