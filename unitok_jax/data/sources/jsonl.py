"""A JSONL file, one record a line, beside a folder of pictures."""

import dataclasses
from typing import Any

from unitok_jax.data import files


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
        name = f"{self._path.name}:{number}"
        record = files.json_object(files.read_span(self._path, start, length), name)
        return {"id": name, **record, "folder": str(self._folder)}
