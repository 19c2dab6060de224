"""A folder of pictures, with or without a folder for each class."""

import dataclasses
import os
from typing import Any

import numpy as np

from unitok_jax.data import files
from unitok_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


@dataclasses.dataclass
class Source:
    """The pictures below `path`, at any depth, in the order of their names.

    Where they lie in folders of `path`, a picture's ``label`` is the number of its folder in the order of names.

    Attributes:
        path: the folder.
    """

    path: str

    def __post_init__(self):
        root = files.existing(self.path, "folder")
        found = sorted(_below(root))
        if not found:
            raise UserError(f"folder: no pictures ({' '.join(SUFFIXES)}) below {self.path}")
        classes = sorted({name.split("/")[0] for name in found if "/" in name})
        labels = {name: number for number, name in enumerate(classes)}
        self._root = str(root)
        # As arrays: a million of Python's strings and numbers would be copied into every worker as it touches them.
        self._names = np.array([os.fsencode(name) for name in found])  # names need not be UTF-8
        self._labels = np.array([labels.get(name.split("/")[0], -1) for name in found], np.int32)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, label = os.fsdecode(bytes(self._names[index])), int(self._labels[index])
        record = {"id": name, "image": name, "folder": self._root}
        return record | ({"label": label} if label >= 0 else {})


def _below(folder: Any, prefix: str = "") -> list[str]:
    """Paths of the pictures below a folder, relative to it."""
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _below(path, f"{prefix}{path.name}/")
        elif path.name.lower().endswith(SUFFIXES):
            found.append(prefix + path.name)
    return found
