"""Torch ``.pt``, ``.pth``, ``.ckpt`` and ``.bin`` files, read and written without torch.

A torch file is a zip of raw storages and a pickle that says which tensor lies where (older ones: pickles followed by
the storages). A pickle is a program; see `inert` for how this one is read without being run.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.inert import InertUnpickler, Storage, Tensor
from unitok_jax.weights.source import AnyArray

ENTRIES = ("state_dict", "ema", "model")  # an average goes before what it averages
BARE = "tensor"  # the name of the tensor of a file that holds one and no dictionary
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class TorchFile:
    """The tensors of one torch file; nested dictionaries are joined by dots.

    Args:
        path: the file.
        entry: the dictionary inside that holds the state dict, dots for deeper ones. By default the whole file if it
            holds tensors at its top level, else its ``state_dict``, ``ema`` (BitDance) or ``model``.

    Attributes:
        told: what stands beside the tensors: texts, numbers, lists and dictionaries of them, such as a constructor's
            arguments.

    Raises:
        UserError: for a file that is not torch's, is cut short, holds code, or has no such entry.
    """

    def __init__(self, path: Path, entry: str | None = None):
        self._path = path
        with path.open("rb") as file:
            self._zip = zipfile.is_zipfile(file)
            content, self._data = _read_zip(path) if self._zip else _read_legacy(path)
        self.told = _said(_entry(path, content, entry))
        self._tensors = dict(_tensors(_entry(path, content, entry)))
        if not self._tensors:
            raise UserError(f"{path}: holds no tensors{f' under {entry}' if entry else ''}")
        for key, tensor in self._tensors.items():
            self._check(key, tensor)

    def keys(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def dtype(self, key: str) -> np.dtype:
        return self._tensors[key].storage.dtype

    def read(self, key: str) -> AnyArray:
        """A read-only view of the file; what is not touched is not read."""
        tensor = self._tensors[key]
        if not math.prod(tensor.shape):
            return np.empty(tensor.shape, tensor.storage.dtype)
        start, _ = self._data[tensor.storage.key]
        flat = np.memmap(self._path, tensor.storage.dtype, "r", start, (tensor.storage.size,))
        strides = tuple(stride * flat.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)

    def _check(self, key: str, tensor: Tensor) -> None:
        """A tensor that reaches beyond its storage would be read from elsewhere in memory: refuse it."""
        storage = tensor.storage
        if storage.key not in self._data or storage.size * storage.dtype.itemsize > self._data[storage.key][1]:
            raise UserError(f"{self._path}: cut short (the data of {key} is missing); download it again")
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        whole = min(tensor.shape, default=1) == 0 or tensor.offset + reach < storage.size
        if not whole or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
            raise UserError(f"{self._path}: {key} reaches beyond its data; the file is broken")


Places = dict[str, tuple[int, int]]  # storage key -> (offset in the file, bytes)


def _read_zip(path: Path) -> tuple[Any, Places]:
    try:
        return _open_zip(path)
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: broken ({error}); download it again") from None


def _open_zip(path: Path) -> tuple[Any, Places]:
    with zipfile.ZipFile(path) as archive:
        root = next((name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("data.pkl")), None)
        if root is None:
            raise UserError(f"{path}: a zip, but not torch's (it has no data.pkl)")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise UserError(f"{path}: written on a big-endian machine; save it again on an ordinary one")
        content = _load(path, io.BytesIO(archive.read(f"{root}data.pkl")))
        inside = [info for info in archive.infolist() if info.filename.startswith(f"{root}data/")]
    if any(info.compress_type != zipfile.ZIP_STORED for info in inside):
        raise UserError(f"{path}: its storages are compressed, torch writes them plain; unpack and zip it with -0")
    with path.open("rb") as file:
        return content, {info.filename.removeprefix(f"{root}data/"): _place(file, info) for info in inside}


def _place(file: BinaryIO, info: zipfile.ZipInfo) -> tuple[int, int]:
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra, info.file_size


def _read_legacy(path: Path) -> tuple[Any, Places]:
    with path.open("rb") as file:
        start = file.read(4)
        if start == b"PK\x03\x04":
            raise UserError(f"{path}: cut short (a torch file whose end is missing); download it again")
        if start[:1] != b"\x80":
            raise UserError(f"{path}: neither a safetensors nor a torch file")
        file.seek(0)
        if _load(path, file) != LEGACY_MAGIC:
            raise UserError(f"{path}: a pickle, but not one of torch.save; save the state dict as safetensors")
        _load(path, file), _load(path, file)  # protocol version and the writer's machine
        storages: dict[str, Storage] = {}
        content = _load(path, file, storages)
        return content, _legacy_places(path, file, _load(path, file), storages)


def _legacy_places(path: Path, file: BinaryIO, keys: Any, storages: Mapping[str, Storage]) -> Places:
    places, end = {}, path.stat().st_size
    for key in keys:
        size = file.read(8)
        if len(size) < 8 or key not in storages:
            raise UserError(f"{path}: cut short or broken; download it again")
        length = struct.unpack("<q", size)[0] * storages[key].dtype.itemsize
        places[key] = (file.tell(), min(length, end - file.tell()))
        file.seek(length, 1)
    return places


def _load(path: Path, file: Any, storages: dict[str, Storage] | None = None) -> Any:
    try:
        return InertUnpickler(file, storages).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"{path}: not a torch checkpoint that can be read ({error})") from None


def _entry(path: Path, content: Any, entry: str | None) -> Any:
    if entry is None:
        if not isinstance(content, dict) or any(isinstance(value, Tensor) for value in content.values()):
            return content
        entry = next((name for name in ENTRIES if name in content), None)
        if entry is None:
            raise UserError(
                f"{path}: no state dict at the top or under {' or '.join(ENTRIES)}; it has {_names(content)}"
            )
    for name in entry.split("."):
        if not isinstance(content, dict) or name not in content:
            raise UserError(f"{path}: has no entry {entry}; it has {_names(content)}")
        content = content[name]
    return content


def _names(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else "no entries"


def _tensors(content: Any, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix or BARE, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))


def _said(content: Any) -> dict[str, Any]:
    """The plain values of a dictionary, without its tensors."""
    if not isinstance(content, dict):
        return {}
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            inner = _said(value)
            if inner or not value:
                kept[str(key)] = inner
        elif value is None or isinstance(value, bool | int | float | str):
            kept[str(key)] = value
        elif isinstance(value, list | tuple) and not any(isinstance(item, Tensor) for item in value):
            kept[str(key)] = list(value)
    return kept
