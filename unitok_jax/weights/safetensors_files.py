"""Safetensors files, single or sharded with an index, read by memory map and written one tensor at a time.

The format: 8 bytes of header length (little-endian), a JSON header ``{name: {dtype, shape, data_offsets}}``, the data.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.source import AnyArray, Source
from unitok_jax.weights.transforms import row_major
from unitok_jax.weights.whole import whole

MODEL, DIFFUSERS = "model", "diffusion_pytorch_model"  # what files are called for transformers, and for diffusers
INDEX = f"{MODEL}.safetensors.index.json"
SINGLE = f"{MODEL}.safetensors"
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class SafetensorsFile:
    """One ``.safetensors`` file.

    Raises:
        UserError: for a file that is cut short or whose header is not what the format says.
    """

    def __init__(self, path: Path):
        self._path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
            if 8 + length > size:
                raise UserError(f"{path}: cut short (its header alone needs {8 + length} bytes, it has {size})")
            self._header = _parsed(path, file.read(length))
        self.metadata = self._header.pop("__metadata__", {})
        self._start = 8 + length
        for key, entry in self._header.items():
            _check(path, key, entry, size - self._start)

    def keys(self) -> Iterable[str]:
        return self._header.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._header[key]["shape"])

    def dtype(self, key: str) -> np.dtype:
        return np.dtype(DTYPES[self._header[key]["dtype"]])

    def read(self, key: str) -> AnyArray:
        """A read-only view of the file; what is not touched is not read."""
        shape, offset = self.shape(key), self._start + self._header[key]["data_offsets"][0]
        if not math.prod(shape):
            return np.empty(shape, self.dtype(key))
        return np.memmap(self._path, self.dtype(key), "r", offset, shape)


class SafetensorsFolder:
    """A Hugging Face folder: an index with its shards, or safetensors files side by side."""

    @staticmethod
    def found(folder: Path) -> bool:
        """Whether a folder holds safetensors files."""
        return _index_of(folder) is not None or any(folder.glob("*.safetensors"))

    def __init__(self, folder: Path):
        index = _index_of(folder)
        if index is not None:
            places = _places(index)
            files = {name: _open_shard(folder, name) for name in dict.fromkeys(places.values())}
            self._files = {key: files[name] for key, name in places.items()}
            _check_index(folder, files, places)
        else:
            found = [SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
            keys = [(key, file) for file in found for key in tuple(file.keys())]
            self._files = dict(keys)
            if len(self._files) != len(keys):
                raise UserError(f"{folder}: several safetensors files hold the same keys; name one of them")

    def keys(self) -> Iterable[str]:
        return self._files.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._files[key].shape(key)

    def dtype(self, key: str) -> np.dtype:
        return self._files[key].dtype(key)

    def read(self, key: str) -> AnyArray:
        return self._files[key].read(key)


def save_file(source: Source, path: Path, keys: Iterable[str] | None = None) -> None:
    """Writes tensors to one file, which appears under its name only when it is whole."""
    keys = list(source.keys() if keys is None else keys)
    with whole(path) as file:
        file.write(_header(source, keys))
        for key in keys:
            file.write(raw(source.read(key)))


def save_folder(source: Source, folder: Path, max_shard: int = 5_000_000_000, name: str = MODEL) -> None:
    """Writes ``NAME.safetensors``, or shards of at most `max_shard` bytes and their index, as Hugging Face does.

    The index comes last, so a folder without one, or without a shard that it names, is a broken export and says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(source, max_shard))
    if len(shards) == 1:
        return save_file(source, folder / f"{name}.safetensors")
    names = [f"{name}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, keys in zip(names, shards, strict=True):
        save_file(source, folder / file, keys)
    places = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
    index = {"metadata": {"total_size": sum(_bytes(source, key) for key in places)}, "weight_map": places}
    with whole(folder / f"{name}.safetensors.index.json") as file:
        file.write(json.dumps(index, indent=2, sort_keys=True).encode())


def raw(tensor: AnyArray) -> memoryview:
    """The bytes of a tensor in row-major order."""
    return row_major(tensor).reshape(-1).view(np.uint8).data


def _header(source: Source, keys: list[str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in keys:
        start, end = end, end + _bytes(source, key)
        if source.dtype(key) not in NAMES:
            raise UserError(f"{key}: safetensors has no type {source.dtype(key)}; export as float32 or bfloat16")
        header[key] = {
            "dtype": NAMES[source.dtype(key)],
            "shape": list(source.shape(key)),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _shards(source: Source, max_shard: int) -> Iterator[list[str]]:
    keys: list[str] = []
    size = 0
    for key in tuple(source.keys()):
        if keys and size + _bytes(source, key) > max_shard:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += _bytes(source, key)
    yield keys


def _bytes(source: Source, key: str) -> int:
    return math.prod(source.shape(key)) * source.dtype(key).itemsize


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a safetensors file (its header is not JSON)") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a safetensors file (its header is a {type(header).__name__}, not an object)")
    return header


def _index_of(folder: Path) -> Path | None:
    indices = (folder / f"{name}.safetensors.index.json" for name in (MODEL, DIFFUSERS))
    return next((index for index in indices if index.exists()), None)


def _places(index: Path) -> dict[str, str]:
    """The file of each key."""
    try:
        places = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError):
        places = None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: no index (expected JSON with a weight_map of files by key); download it again")
    return places


def _check(path: Path, key: str, entry: Any, size: int) -> None:
    if not _is_entry(entry):
        raise UserError(
            f"{path}: {key} has no dtype, shape and data_offsets as the format has them; the file is broken"
        )
    if entry["dtype"] not in DTYPES:
        raise UserError(f"{path}: {key} has type {entry['dtype']}; known: {', '.join(DTYPES)}")
    start, end = entry["data_offsets"]
    if end - start != math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]]).itemsize:
        raise UserError(f"{path}: {key} spans {end - start} bytes, its shape {entry['shape']} needs another number")
    if end > size:
        raise UserError(f"{path}: cut short ({key} ends at byte {end} of {size}); download or export it again")


def _is_entry(entry: Any) -> bool:
    """Whether what the header says of a tensor has the form that the format gives it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(isinstance(number, int) and number >= 0 for number in (*shape, *offsets))


def _open_shard(folder: Path, name: str) -> SafetensorsFile:
    if not (folder / name).exists():
        raise UserError(f"{folder / name}: missing; the index names it, download or export the folder again")
    return SafetensorsFile(folder / name)


def _check_index(folder: Path, files: dict[str, SafetensorsFile], places: dict[str, str]) -> None:
    held = {name: set(file.keys()) for name, file in files.items()}
    for key, name in places.items():
        if key not in held[name]:
            raise UserError(f"{folder / name}: lacks {key}, which the index says it holds")
