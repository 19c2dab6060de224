"""Parameters that Orbax has saved, as a source: keys are our paths with dots, ``lm.head.kernel``."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util


class OrbaxFolder:
    """An Orbax checkpoint of one tree of arrays."""

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self._reader = ocp.PyTreeCheckpointer()
        tree = self._reader.metadata(self._folder).item_metadata.tree
        self._leaves = traverse_util.flatten_dict(tree, sep=".")

    @staticmethod
    def found(folder: Path) -> bool:
        """Whether a folder is an Orbax checkpoint of a tree."""
        return (folder / "_METADATA").exists()

    def keys(self) -> Iterable[str]:
        return self._leaves.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._leaves[key].shape)

    def dtype(self, key: str) -> np.dtype:
        return np.dtype(self._leaves[key].dtype)

    def read(self, key: str) -> np.ndarray:
        path = tuple(key.split("."))
        item = traverse_util.unflatten_dict({path: np.empty((), self.dtype(key))})
        args = ocp.args.PyTreeRestore(
            item=item,
            restore_args=traverse_util.unflatten_dict({path: ocp.RestoreArgs(restore_type=np.ndarray)}),
            partial_restore=True,
        )
        return traverse_util.flatten_dict(self._reader.restore(self._folder, args=args))[path]
