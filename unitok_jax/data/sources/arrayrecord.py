"""Our ArrayRecord shards: any record, with pictures as encoded bytes or precomputed codes."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import grain

from unitok_jax.data import records
from unitok_jax.data.example import BadExample
from unitok_jax.errors import UserError


@dataclasses.dataclass
class Source:
    """Shards written by `unitok tokenize` or `unitok_jax.data.records.write_shard`.

    Attributes:
        path: the folder, one file, or a glob.
    """

    path: str

    def __post_init__(self):
        self._files = records.find_shards(self.path)
        try:
            self._shards = grain.sources.ArrayRecordDataSource([os.fspath(shard) for shard in self._files])
        except (RuntimeError, ValueError) as error:  # the reader, in C++, does not say which file it was
            reason = str(error).partition(";")[0] or "cut short or no ArrayRecord file"
            raise UserError(f"arrayrecord: {self.path}: {reason}. Copy it, or run 'unitok tokenize', again.") from None

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = f"{self.path}:{index}"
        try:
            return {"id": name, **records.decode(self._shards[index])}
        except BadExample as error:
            raise BadExample(error.reason, f"{name}: {error.detail}") from None
        except (RuntimeError, ValueError, OSError) as error:  # a damaged chunk
            raise BadExample("record cannot be read", f"{name}: {error}") from None

    def scan(self) -> Iterator[dict[str, Any] | None]:
        """All records in order; their bytes and arrays only where no headers lie beside the shards. None: a bad one."""
        headers = [records.headers_beside(file) for file in self._files]
        if all(file.exists() for file in headers):
            for file in headers:
                yield from records.read_headers(file)
            return
        for index in range(len(self)):
            try:
                yield self[index]
            except BadExample:
                yield None
