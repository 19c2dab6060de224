"""Writes and reads Orbax checkpoints piece by piece, so that neither a model nor a stacked parameter is held whole.

Orbax itself writes the frame: the tree, its metadata and empty arrays. The arrays are then laid out anew by TensorStore
with one chunk a layer and filled as the pieces come. What results is an ordinary Orbax checkpoint (zarr, no OCDBT).
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import traverse_util

from unitok_jax.errors import UserError
from unitok_jax.weights.source import AnyArray
from unitok_jax.weights.transforms import row_major

Told = Callable[[int], None]  # called with the bytes just done


class Leaf(Protocol):
    """A parameter that comes in pieces; `transfer.Incoming` is one."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def pieces(self) -> Iterator[tuple[int | None, AnyArray]]:
        """(index along the first axis, that slice), or one (None, everything)."""


def save_leaves(leaves: Mapping[str, Leaf], folder: Path, told: Told = lambda size: None) -> None:
    """Writes a checkpoint of one tree.

    Args:
        leaves: by path, such as ``lm/head/kernel``.
        folder: made here.
        told: called after each piece.
    """
    frame = {path: np.zeros((1,) * len(leaf.shape), leaf.dtype) for path, leaf in leaves.items()}
    with _without_advice(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as writer:
        writer.save(folder.absolute(), args=ocp.args.PyTreeSave(traverse_util.unflatten_dict(frame, sep="/")))
    for path, leaf in leaves.items():
        _fill(folder.absolute() / path.replace("/", "."), leaf, told)


@contextlib.contextmanager
def _without_advice() -> Generator[None]:
    """Keeps to itself that Orbax warns of a merge it has nothing to do for, where OCDBT is not used."""

    def other(record: logging.LogRecord) -> bool:
        return "Skipping merge of OCDBT" not in str(record.msg)

    absl = logging.getLogger("absl")
    absl.addFilter(other)
    try:
        yield
    finally:
        absl.removeFilter(other)


def _fill(place: Path, leaf: Leaf, told: Told) -> None:
    store = None
    for index, piece in leaf.pieces():
        if store is None:
            store = _lay_out(place, leaf, stacked=index is not None)
        target = store if index is None else store[index]
        target.write(row_major(piece), can_reference_source_data_indefinitely=True).result()
        told(piece.nbytes)


def _lay_out(place: Path, leaf: Leaf, stacked: bool) -> ts.TensorStore:
    """An empty zarr array in the place of the frame's; uncompressed, for weights hardly compress."""
    chunks = (1, *leaf.shape[1:]) if stacked else leaf.shape
    metadata = {"shape": leaf.shape, "chunks": [max(n, 1) for n in chunks], "dtype": _zarr_type(place, leaf.dtype)}
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{place}/"},
        "metadata": {**metadata, "compressor": None, "fill_value": None},
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True, delete_existing=True).result()


def _zarr_type(place: Path, dtype: np.dtype) -> Any:
    """The name that Orbax has just given the type."""
    found = json.loads((place / ".zarray").read_text())["dtype"]
    assert found, dtype
    return found


class StoredLeaf:
    """A parameter in an Orbax checkpoint, read when asked for.

    ``leaf[i]`` reads what is stored together with slice i of the first axis (one layer where `save_leaves` or training
    wrote it) and keeps it until a slice outside is asked for; `numpy.asarray` reads all.

    Attributes:
        shape, dtype: of the parameter.
    """

    def __init__(self, folder: Path, name: str, zarr3: bool):
        base, ocdbt = f"file://{folder.absolute()}/", (folder / "manifest.ocdbt").exists()
        place = {"driver": "ocdbt", "base": base, "path": f"{name}/"} if ocdbt else f"{base}{name}/"
        spec = {"driver": "zarr3" if zarr3 else "zarr", "kvstore": place, "fill_missing_data_reads": False}
        self._folder = folder
        with _told_clearly(folder):
            self._store = ts.open(spec, open=True).result()
        self.shape, self.dtype = tuple(self._store.shape), np.dtype(self._store.dtype.numpy_dtype)
        self._start, self._block = 0, np.empty((0,))

    @property
    def nbytes(self) -> int:
        """Size of the whole parameter."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: int) -> AnyArray:
        if not self._start <= index < self._start + len(self._block):
            step = self._store.chunk_layout.read_chunk_template.shape[0]
            self._start = index - index % step
            self._block = np.empty((0,))  # before the next one is read
            with _told_clearly(self._folder):
                self._block = self._store[self._start : min(self._start + step, self.shape[0])].read().result()
        return self._block[index - self._start]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        with _told_clearly(self._folder):
            return np.asarray(self._store.read().result(), dtype)


def open_leaves(folder: Path, wanted: Callable[[str], bool] = lambda path: True) -> dict[str, StoredLeaf]:
    """The arrays of an Orbax checkpoint by path, none of them read yet.

    Args:
        folder: the checkpoint.
        wanted: picks paths.

    Raises:
        UserError: for a checkpoint that is broken; reading a leaf raises it too.
    """
    with _told_clearly(folder):
        zarr3 = json.loads((folder / "_METADATA").read_text()).get("use_zarr3", False)
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder.absolute())).tree
    names = traverse_util.flatten_dict(tree, sep="/")
    return {path: StoredLeaf(folder, path.replace("/", "."), zarr3) for path in names if wanted(path)}


@contextlib.contextmanager
def _told_clearly(folder: Path) -> Generator[None]:
    """Around what reads a checkpoint: what TensorStore and Orbax raise becomes one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(" [")[0]
        raise UserError(f"{folder}: broken ({reason}); copy or import the checkpoint again") from None
