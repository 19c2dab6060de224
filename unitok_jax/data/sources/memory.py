"""Records given in the config or by a caller in Python."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unitok_jax.data.example import BadExample


@dataclasses.dataclass
class Source:
    """A list of records.

    Attributes:
        records: dicts with the fields of `unitok_jax.data.tasks`.
    """

    records: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        if not isinstance(record, Mapping):
            raise BadExample("record cannot be read", f"memory:{index}: a {type(record).__name__}, not a record")
        return dict(record)
