"""Our ArrayRecord shards: any record, with pictures as encoded bytes or precomputed codes."""

import dataclasses
import os
from typing import Any

import grain

from unitok_jax.data import records
from unitok_jax.data.example import BadExample


@dataclasses.dataclass
class Source:
    """Shards written by `unitok tokenize` or `unitok_jax.data.records.write_shard`.

    Attributes:
        path: the folder, one file, or a glob.
    """

    path: str

    def __post_init__(self):
        self._shards = grain.sources.ArrayRecordDataSource([os.fspath(p) for p in records.find_shards(self.path)])

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {"id": f"{self.path}:{index}", **records.decode(self._shards[index])}
        except BadExample as error:
            raise BadExample(error.reason, f"{self.path}:{index}: {error.detail}") from None
