"""Named tensors, wherever they lie: what every container offers and every import reads."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

AnyArray = Shaped[np.ndarray, "..."]


@runtime_checkable
class Source(Protocol):
    """Named tensors, read one at a time."""

    def keys(self) -> Iterable[str]:
        """Names of all tensors."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one, without reading it."""

    def dtype(self, key: str) -> np.dtype:
        """Type of one, without reading it (bfloat16 and float8 as in `ml_dtypes`)."""

    def read(self, key: str) -> AnyArray:
        """One tensor on the host."""


class InMemory:
    """Arrays by name, as a source."""

    def __init__(self, tensors: Mapping[str, AnyArray]):
        self._tensors = dict(tensors)

    def keys(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def dtype(self, key: str) -> np.dtype:
        return np.dtype(self._tensors[key].dtype)

    def read(self, key: str) -> AnyArray:
        return np.asarray(self._tensors[key])
