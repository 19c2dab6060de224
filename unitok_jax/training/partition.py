"""Which parameters a phase trains, picked by regexes on paths such as ``lm/head/kernel``."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from unitok_jax.errors import UserError
from unitok_jax.systems.base import Params


def paths(params: Params) -> list[str]:
    """The paths of all leaves, in order."""
    return list(flatten_dict(params, sep="/"))


def matching(names: Iterable[str], patterns: Iterable[str], where: str) -> frozenset[str]:
    """The paths in which some pattern is found.

    Raises:
        UserError: for a pattern that is found in none; `where` names its place in the message.
    """
    names, found = list(names), set()
    for pattern in patterns:
        hits = [name for name in names if re.search(pattern, name)]
        if not hits:
            raise UserError(f"{where}: {pattern!r} matches none of {len(names)} parameters, such as {names[:3]}")
        found.update(hits)
    return frozenset(found)


def stacked(path: Iterable[Any]) -> bool:
    """Whether JAX's key path leads to a parameter whose first axis is the layers of a span (``span_0_32``)."""
    return any(str(getattr(key, "key", "")).startswith("span_") for key in path)


def split(params: Params, names: Collection[str]) -> tuple[Params, Params]:
    """Cuts a nested dict in two: the leaves at `names`, and the rest."""
    flat = flatten_dict(params, sep="/")
    inside = {path: leaf for path, leaf in flat.items() if path in names}
    outside = {path: leaf for path, leaf in flat.items() if path not in names}
    return unflatten_dict(inside, sep="/"), unflatten_dict(outside, sep="/")


def merge(*trees: Params) -> Params:
    """Joins nested dicts; where several hold a leaf the last one counts."""
    flat: dict[str, Any] = {}
    for tree in trees:
        flat.update(flatten_dict(tree, sep="/"))
    return unflatten_dict(flat, sep="/")
