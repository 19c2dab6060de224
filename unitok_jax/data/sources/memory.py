"""Records given in the config or by a caller in Python."""

import dataclasses
from typing import Any


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
        return dict(self.records[index])
