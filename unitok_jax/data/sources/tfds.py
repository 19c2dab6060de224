"""TensorFlow Datasets through its random-access `data_source`: works without TensorFlow."""

import dataclasses
from typing import Any

import numpy as np

from unitok_jax.data.example import BadExample
from unitok_jax.errors import UserError


@dataclasses.dataclass
class Source:
    """A prepared tfds data set (file format ``array_record`` or ``parquet``).

    Give `fields` in the config's entry where its features are not called as in `unitok_jax.data.tasks`.

    Attributes:
        name: such as ``coco_captions`` or ``mnist:3.0.1``.
        split: a tfds split, such as ``train`` or ``train[:90%]``.
        data_dir: where it was prepared; by default tfds' own folder.
    """

    name: str
    split: str = "train"
    data_dir: str | None = None

    def __post_init__(self):
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise UserError("tfds: the package is missing. Run: pip install tensorflow-datasets") from None
        try:
            self._source: Any = tfds.data_source(self.name, split=self.split, data_dir=self.data_dir)
        except Exception as error:  # tfds raises a dozen kinds: not found, not prepared, another file format, bad split
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"tfds: cannot open {self.name!r}, split {self.split!r}: {reason}") from None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = f"{self.name}/{self.split}:{index}"
        try:
            features = self._source[index]
        except Exception as error:  # it decodes pictures, sound and more, each with exceptions of its own
            raise BadExample("record cannot be read", f"{name}: {error}") from None
        return {"id": name, **{feature: _plain(value) for feature, value in features.items()}}


def _plain(value: Any) -> Any:
    """Text as str, lists of text as lists; pictures and numbers stay arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
