"""Random-access sources of raw records: one file a kind, named as in a config's ``kind``.

Each file has a dataclass `Source` whose fields are the kind's options, with ``__len__`` and ``__getitem__``
(a raw record, a dict; raises `BadExample` where one record cannot be read). Field names: `unitok_jax.data.tasks`.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from unitok_jax.errors import UserError
from unitok_jax.settings import from_config, near


@runtime_checkable
class RecordSource(Protocol):
    """What every `Source` offers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class Scans(Protocol):
    """A source that reads all its records in order faster than one by one."""

    def scan(self) -> Iterator[dict[str, Any] | None]:
        """The raw records; None for one that cannot be read."""


def kinds() -> tuple[str, ...]:
    """Names of the kinds: the files beside this one."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def source_class(kind: str, where: str) -> type[Any]:
    """The `Source` class of a kind.

    Raises:
        UserError: for an unknown kind.
    """
    if kind not in kinds():
        raise UserError(f"{where}.kind: no kind of source {kind!r}.{near(kind, kinds())}")
    return importlib.import_module(f"{__name__}.{kind}").Source


def option_names(kind: str, where: str) -> tuple[str, ...]:
    """The options that a kind takes."""
    return tuple(field.name for field in dataclasses.fields(source_class(kind, where)) if field.init)


def open_source(kind: str, options: Mapping[str, Any], where: str) -> RecordSource:
    """Opens a source.

    Args:
        kind: one of `kinds()`.
        options: the kind's options.
        where: the place in the config, for messages.

    Raises:
        UserError: for an unknown kind or option, or a file that does not exist or cannot be read.
    """
    try:
        return from_config(source_class(kind, where), options, where)
    except OSError as error:
        raise UserError(f"{where}: {error.filename or kind}: cannot be read ({error.strerror or error})") from None
