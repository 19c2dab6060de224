"""Records as ArrayRecord shards, pictures or precomputed codes inside: what `unitok prepare` and `tokenize` write.

A record on disk is ``b"UTR1"``, the header's length (uint32, little endian), the header (UTF-8 JSON) and then the
contents of its byte strings and arrays one after another. In the header they stand as ``{"$bytes": length}`` and
``{"$array": [dtype, shape]}``, in order. Nothing is ever executed on reading.
"""

import json
import math
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from array_record.python import array_record_module
from etils import epath
from jaxtyping import Integer, UInt

from unitok_jax.data import files
from unitok_jax.data.example import BadExample
from unitok_jax.errors import UserError

MAGIC = b"UTR1"
SUFFIX = ".arrayrecord"
HEADERS = ".headers"  # behind a shard's name: its records' headers, a line each
META = "meta.json"
SAFE_DTYPES = "biuf"  # booleans, integers, floats: no object arrays


def encode(record: Mapping[str, Any]) -> bytes:
    """Turns a record of None, bool, int, float, str, bytes, arrays, lists and dicts into bytes.

    Raises:
        TypeError: for any other value.
    """
    blobs: list[bytes] = []
    header = json.dumps(_pack(dict(record), blobs), ensure_ascii=False).encode(errors="surrogatepass")
    return b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *blobs])


def decode(data: bytes) -> dict[str, Any]:
    """The record of `encode`.

    Raises:
        BadExample: if the bytes are none or are cut short.
    """
    try:
        if data[:4] != MAGIC:
            raise ValueError("not a record of unitok")
        start = _contents_start(data)
        record = _unpack(json.loads(data[8:start]), _Blobs(memoryview(data)[start:]))
        if not isinstance(record, dict):
            raise ValueError("not an object")
        return record
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise BadExample("record cannot be read", str(error)) from None


def smallest(codes: Integer[np.ndarray, "*n"]) -> UInt[np.ndarray, "*n"]:
    """Non-negative integer codes in the smallest unsigned dtype that holds them."""
    codes = np.asarray(codes)
    if codes.size and codes.min() < 0:
        raise ValueError(f"codes are at least 0, got {codes.min()}")
    return codes.astype(np.min_scalar_type(int(codes.max(initial=0))))


def shard_name(shard: int, shards: int) -> str:
    """The file name of one shard."""
    return f"records-{shard:05d}-of-{shards:05d}{SUFFIX}"


def shard_span(total: int, shards: int, shard: int) -> range:
    """Which of `total` records shard number `shard` holds: contiguous, sizes equal up to one."""
    return range(total * shard // shards, total * (shard + 1) // shards)


def start_shards(folder: str, meta: Mapping[str, Any], shards: int) -> list[int]:
    """Prepares a folder and lists the shards that it still lacks: the job can be killed and started again.

    Args:
        folder: where the shards go.
        meta: what made them (system, weights, source, number of records), JSON values; kept in ``meta.json``.
        shards: how many there will be.

    Raises:
        UserError: if the folder holds the shards of another job.
    """
    root = epath.Path(folder).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps({**meta, "shards": shards}))
    if (root / META).exists():
        found = json.loads((root / META).read_text())
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if different:
            raise UserError(f"{folder}: holds shards made with another {', '.join(different)}; choose another folder.")
    else:
        files.write_whole(root / META, json.dumps(wanted, indent=1).encode())
    return [shard for shard in range(shards) if not (root / shard_name(shard, shards)).exists()]


def write_shard(
    folder: str,
    shard: int,
    shards: int,
    records: Iterable[Mapping[str, Any]],
    skipped: Mapping[str, int] | None = None,
) -> int:
    """Writes one shard, which appears whole or not at all, with its counts beside it; returns its number of records.

    The records' headers lie beside it as well, so that their words can be read without the pictures.

    Args:
        folder: where it goes.
        shard, shards: its number, and how many there are.
        records: its records; ``codes`` (an array, or a list of arrays) are kept in the smallest integer dtype.
        skipped: how many were left out, by reason; read once `records` has come to its end.
    """
    target = epath.Path(folder).expanduser() / shard_name(shard, shards)
    count = 0
    with tempfile.TemporaryDirectory() as scratch:  # ArrayRecord writes local files only
        local, headers = epath.Path(scratch) / target.name, epath.Path(scratch) / f"{target.name}{HEADERS}"
        writer = array_record_module.ArrayRecordWriter(str(local), "group_size:1")  # 1: fast random access
        with headers.open("wb") as lines:
            for record in records:
                data = encode(_small_codes(record))
                writer.write(data)
                lines.write(data[8 : _contents_start(data)] + b"\n")
                count += 1
        writer.close()
        part = target.parent / f"{target.name}.{uuid.uuid4().hex}.part"  # two workers may be at the same shard
        local.copy(part, overwrite=True)
        headers.copy(headers_beside(target), overwrite=True)
    files.write_whole(_counts_file(folder, shard, shards), json.dumps({"written": count, **(skipped or {})}).encode())
    part.replace(target)
    return count


def read_counts(folder: str, shards: int, numbers: Iterable[int]) -> Counter[str]:
    """How many records some of a job's shards hold (``written``) and left out (by reason), all of them together."""
    found: Counter[str] = Counter()
    for shard in numbers:
        found.update(json.loads(_counts_file(folder, shard, shards).read_text()))
    return found


def _counts_file(folder: str, shard: int, shards: int) -> epath.Path:
    return epath.Path(folder).expanduser() / shard_name(shard, shards).replace(SUFFIX, ".json")


def headers_beside(shard: epath.Path) -> epath.Path:
    """The file with a shard's headers; shards that others wrote may have none."""
    return shard.parent / f"{shard.name}{HEADERS}"


def read_headers(file: epath.Path) -> Iterator[dict[str, Any]]:
    """The records of a file of headers, True in the place of their bytes and arrays."""
    with file.open("rb") as lines:
        for line in lines:
            yield json.loads(line, object_hook=_unread)


def _unread(value: dict[str, Any]) -> Any:
    return True if "$bytes" in value or "$array" in value else value


def _contents_start(data: bytes) -> int:
    """Where a record's header ends."""
    return 8 + int.from_bytes(data[4:8], "little")


def find_shards(path: str) -> tuple[epath.Path, ...]:
    """The shards of a folder, or the files that a path or glob names.

    Raises:
        UserError: if there are none, or a folder lacks some of a job's shards.
    """
    root = epath.Path(path).expanduser()
    if not root.is_dir():
        return files.matching(path, "arrayrecord")
    found = tuple(sorted(root.glob(f"*{SUFFIX}")))
    if not found:
        raise UserError(f"arrayrecord: no *{SUFFIX} file in {path}. Write some: 'unitok prepare'.")
    named = re.fullmatch(rf".*-of-(\d+){SUFFIX}", found[0].name)
    if named and len(found) != int(named[1]):
        raise UserError(f"arrayrecord: {path} has {len(found)} of {int(named[1])} shards. Run what makes them again.")
    return found


def _small_codes(record: Mapping[str, Any]) -> dict[str, Any]:
    codes = record.get("codes")
    if codes is None:
        return dict(record)
    small = [smallest(one) for one in codes] if isinstance(codes, (list, tuple)) else smallest(codes)
    return {**record, "codes": small}


def _pack(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) or key.startswith("$") for key in value):
            raise TypeError(f"keys are texts that do not begin with $, got {list(value)}")
        return {key: _pack(item, blobs) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, blobs) for item in value]
    if isinstance(value, bytes):
        blobs.append(value)
        return {"$bytes": len(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in SAFE_DTYPES:
        little = value.astype(value.dtype.newbyteorder("<"))
        blobs.append(little.tobytes())
        return {"$array": [little.dtype.str, list(value.shape)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _unpack(value: Any, blobs: "_Blobs") -> Any:
    if isinstance(value, list):
        return [_unpack(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return bytes(blobs.take(value["$bytes"]))
    if "$array" in value:
        name, shape = value["$array"]
        dtype = np.dtype(name)
        if dtype.kind not in SAFE_DTYPES:
            raise ValueError(f"dtype {name}")
        return np.frombuffer(blobs.take(dtype.itemsize * math.prod(shape)), dtype).reshape(shape)
    return {key: _unpack(item, blobs) for key, item in value.items()}


class _Blobs:
    """Hands out the bytes after a header, piece by piece."""

    def __init__(self, data: memoryview):
        self._data, self._start = data, 0

    def take(self, length: int) -> memoryview:
        if not 0 <= length <= len(self._data) - self._start:
            raise ValueError("cut short")
        self._start += length
        return self._data[self._start - length : self._start]
