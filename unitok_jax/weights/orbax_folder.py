"""Parameters that Orbax has saved, as a source: keys are our paths with dots, ``lm.head.kernel``."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unitok_jax.weights.orbax_stream import open_leaves
from unitok_jax.weights.source import AnyArray


class OrbaxFolder:
    """An Orbax checkpoint of one tree of arrays."""

    def __init__(self, folder: Path):
        self._leaves = {path.replace("/", "."): leaf for path, leaf in open_leaves(folder).items()}

    @staticmethod
    def found(folder: Path) -> bool:
        """Whether a folder is an Orbax checkpoint of a tree."""
        return (folder / "_METADATA").exists()

    def keys(self) -> Iterable[str]:
        return self._leaves.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._leaves[key].shape

    def dtype(self, key: str) -> np.dtype:
        return self._leaves[key].dtype

    def read(self, key: str) -> AnyArray:
        return np.asarray(self._leaves[key])
