"""Typed settings out of a config: dataclasses filled from mappings, unknown keys refused by name."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from ml_collections import ConfigDict

from unitok_jax.errors import UserError


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Dataclass)


def near(name: str, known: typing.Iterable[str]) -> str:
    """Returns ``' Did you mean a or b?'`` for the names closest to `name`, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" Known: {', '.join(known)}." if known else ""


def from_config(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `cls` from a mapping (a ConfigDict, a JSON object).

    Nested dataclass fields are built the same way and lists become tuples.

    Args:
        cls: a dataclass.
        values: its fields; a missing field takes the dataclass default.
        where: the path of `values` in the config, for messages, such as ``config.model.lm``.

    Raises:
        UserError: for an unknown key, a missing one, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: no such key.{near(unknown[0], fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(f"{where}.{name}: missing; {cls.__name__} needs it")
    return cls(**{name: _convert(value, hints[name], f"{where}.{name}") for name, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    value = value.to_dict() if isinstance(value, ConfigDict) else value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_config(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        return tuple(_convert(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, inner, strict=False)))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, Any]):
        return {k: _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is typing.Literal and value not in args:
        raise UserError(f"{where}: expected {' or '.join(map(repr, args))}, got {value!r}")
    if isinstance(hint, type) and not isinstance(value, hint):
        raise UserError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
