"""Writes tensors as ``torch.save`` lays them out, so that ``torch.load(weights_only=True)`` reads them. No torch here.

The file is a zip of uncompressed entries: ``data.pkl`` (an ordered dict of tensors, pickle protocol 2, written below
opcode by opcode), ``version``, ``byteorder``, and one ``data/<n>`` a storage.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.errors import UserError
from unitok_jax.weights.inert import STORAGES
from unitok_jax.weights.safetensors_files import raw
from unitok_jax.weights.source import Source
from unitok_jax.weights.whole import whole

ROOT = "archive/"
STORAGE_OF = {np.dtype(dtype): f"{name}Storage" for name, dtype in STORAGES.items() if name != "Untyped"}


def save_torch(source: Source, path: Path, entry: str | None = None, beside: Mapping[str, Any] | None = None) -> None:
    """Writes one torch file, which appears under its name only when it is whole.

    Args:
        source: the tensors; each is read when its turn comes.
        path: the file.
        entry: put the tensors under this key of an outer dict, such as ``state_dict``; dots for deeper ones. Empty
            writes the only tensor bare.
        beside: plain values that stand beside the tensors in the innermost dict of `entry`.
    """
    keys = tuple(source.keys())
    with whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("data.pkl"), _pickle(source, keys, entry, beside or {}))
        archive.writestr(_entry("byteorder"), "little")
        for number, key in enumerate(keys):
            tensor = raw(source.read(key))
            info = _entry(f"data/{number}")
            info.file_size = tensor.nbytes
            with archive.open(info, "w", force_zip64=tensor.nbytes > 2**31 - 2**20) as data:
                data.write(tensor)
        archive.writestr(_entry("version"), "3\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """A file of the zip, dated 1980: equal tensors give equal files."""
    return zipfile.ZipInfo(ROOT + name)


def _pickle(source: Source, keys: Sequence[str], entry: str | None, beside: Mapping[str, Any]) -> bytes:
    tensors = [_tensor(str(number), source.shape(key), source.dtype(key)) for number, key in enumerate(keys)]
    if entry == "":
        (body,) = tensors
    else:
        items = (part for key, tensor in zip(keys, tensors, strict=True) for part in (_text(key), tensor))
        body = b"".join([_ordered_dict(), pickle.MARK, *items, pickle.SETITEMS])
    outer = entry.split(".") if entry else []
    for depth, name in enumerate(reversed(outer)):
        around = [part for key, value in beside.items() for part in (_text(key), _value(value))] if depth == 0 else []
        body = b"".join([pickle.EMPTY_DICT, pickle.MARK, *around, _text(name), body, pickle.SETITEMS])
    return pickle.PROTO + b"\x02" + body + pickle.STOP


def _value(value: Any) -> bytes:
    """A plain value: None, bool, int, float, str, and lists and dictionaries of them."""
    if isinstance(value, Mapping):
        items = [part for key, inner in value.items() for part in (_text(key), _value(inner))]
        return b"".join([pickle.EMPTY_DICT, pickle.MARK, *items, pickle.SETITEMS])
    if isinstance(value, list | tuple):
        return b"".join([pickle.EMPTY_LIST, pickle.MARK, *map(_value, value), pickle.APPENDS])
    if isinstance(value, bool) or value is None:
        return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    return _int(value) if isinstance(value, int) else _text(value)


def _tensor(storage: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    if dtype not in STORAGE_OF:
        raise UserError(f"torch file: cannot write {dtype}; export as float32 or bfloat16")
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    place = [_text("storage"), _name("torch", STORAGE_OF[dtype]), _text(storage), _text("cpu"), _int(math.prod(shape))]
    view = [_tuple(place) + pickle.BINPERSID, _int(0), _tuple(map(_int, shape)), _tuple(map(_int, strides))]
    return (
        _name("torch._utils", "_rebuild_tensor_v2") + _tuple([*view, pickle.NEWFALSE, _ordered_dict()]) + pickle.REDUCE
    )


def _ordered_dict() -> bytes:
    return _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(items: Iterable[bytes]) -> bytes:
    return b"".join([pickle.MARK, *items, pickle.TUPLE])


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data
