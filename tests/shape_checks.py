"""The run-time check behind `conftest.py`: arrays against the jaxtyping shapes of public signatures, and nothing else.

NumPy and JAX arrays pass for one another, as they do for the package's functions; what is not an array is the type
checker's concern.
"""

import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import jaxtyping
from beartype import beartype
from beartype.vale import Is

NotAnArray = Annotated[object, Is[lambda value: not hasattr(value, "dtype")]]  # such as a sharding in a pytree


def check_shapes(function: Callable) -> Callable:
    """A type checker for `jaxtyping.install_import_hook` that keeps the annotations with shapes only."""
    hints = {name: _loose(hint) for name, hint in function.__annotations__.items() if _has_shape(hint)}
    function.__annotations__ = hints
    return beartype(function)


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _has_shape(hint: Any) -> bool:
    if typing.get_origin(hint) is Callable:
        return False  # what a function argument takes is checked where it is called
    return _is_array(hint) or any(map(_has_shape, typing.get_args(hint)))


def _loose(hint: Any) -> Any:
    """The hint with any kind of array in the place of the one named, and anything where no shape stands."""
    if _is_array(hint):
        return typing.Union[NotAnArray, hint.dtype[Any, hint.dim_str]]  # noqa: UP007
    inner, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_loose(one) if _has_shape(one) else one for one in inner)]  # noqa: UP007
    if not _has_shape(hint):
        return hint if hint is Ellipsis else Any
    return origin[tuple(map(_loose, inner))]
