"""A LLaVA-style JSON list of conversations, beside a folder of pictures."""

import dataclasses
import json
from typing import Any

import numpy as np

from unitok_jax.data import files
from unitok_jax.errors import UserError


@dataclasses.dataclass
class Source:
    """``[{"id", "image": path or paths, "conversations": [{"from", "value"}]}]``.

    The list is kept as text with the items' places: a tenth of the memory of parsed objects.

    Attributes:
        path: the JSON file.
        images: the folder that pictures' paths are relative to; by default the file's own.
    """

    path: str
    images: str | None = None

    def __post_init__(self):
        path = files.existing(self.path, "llava")
        self._folder = files.existing(self.images, "llava") if self.images else path.parent
        self._name = path.name
        items = [json.dumps(item).encode() for item in _read_list(path)]
        self._ends = np.cumsum([len(item) for item in items], dtype=np.int64)
        self._text = b"".join(items)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self._ends[index - 1]) if index else 0
        record = files.json_object(self._text[start : int(self._ends[index])], f"{self._name}[{index}]")
        return {"id": f"{self._name}[{index}]", **record, "folder": str(self._folder)}


def _read_list(path: Any) -> list[Any]:
    try:
        items = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"llava: {path} is not JSON: {error}. Mend the file, or use kind 'jsonl' for lines.") from None
    if not isinstance(items, list):
        raise UserError(f"llava: {path}: expected a JSON list of conversations, got {type(items).__name__}.")
    return items
