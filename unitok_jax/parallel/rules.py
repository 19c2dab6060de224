"""From regex rules on parameter paths to shardings."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unitok_jax.errors import UserError

Axis = str | tuple[str, ...] | None
Rules = Sequence[tuple[str, tuple[Axis, ...]]]  # (regex searched in the path, mesh axes of the trailing dimensions)


def under(part: str, rules: Rules) -> Rules:
    """A backbone's rules for the paths below ``part/`` alone, so that those of several parts stand in one table."""
    return tuple((f"^(?={part}/).*(?:{pattern})", axes) for pattern, axes in rules)


def param_shardings(
    rules: Rules, params: dict[str, Any], mesh: Mesh | AbstractMesh
) -> tuple[dict[str, Any], list[str]]:
    """Gives every parameter its sharding.

    A rule speaks of a leaf's trailing dimensions: ``(r"mlp/up/kernel", ("fsdp", "tensor"))`` shards a [D, F] kernel
    and, alike, a span's stacked [layers, D, F] one, whose layer axis stays whole.

    Args:
        rules: each leaf must be matched by exactly one.
        params: nested dict of arrays or `jax.ShapeDtypeStruct`.
        mesh: the mesh.

    Returns:
        The shardings, a nested dict like `params`, and one line for each dimension left whole because its mesh
        axis does not divide it.

    Raises:
        UserError: for a leaf that no rule or several rules match, or a rule longer than its leaf's shape.
    """
    reports: list[str] = []
    flat = flatten_dict(params, sep="/")
    shardings = {
        path: NamedSharding(mesh, _spec(rules, path, leaf.shape, mesh, reports)) for path, leaf in flat.items()
    }
    return unflatten_dict(shardings, sep="/"), reports


def follow(tree: Any, params: dict[str, Any], shardings: dict[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """Shardings for a tree that holds copies of parameters, such as an optimizer's state.

    A leaf whose path ends in a parameter's path, and that has its shape, lies as the parameter does; any other is
    whole on every device.
    """
    whole = NamedSharding(mesh, P())
    known = {path: (leaf.shape, sharding) for path, leaf, sharding in _zip_paths(params, shardings)}

    def place(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = [str(key.key) for key in key_path if isinstance(key, jax.tree_util.DictKey)]
        ends = ("/".join(keys[start:]) for start in range(len(keys)))
        shape, sharding = next((known[end] for end in ends if end in known), (None, whole))
        return sharding if shape == leaf.shape else whole

    return jax.tree_util.tree_map_with_path(place, tree)


def _zip_paths(params: dict[str, Any], shardings: dict[str, Any]) -> list[tuple[str, Any, NamedSharding]]:
    places = flatten_dict(shardings, sep="/")
    return [(path, leaf, places[path]) for path, leaf in flatten_dict(params, sep="/").items()]


def _spec(rules: Rules, path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, reports: list[str]) -> P:
    found = [(pattern, axes) for pattern, axes in rules if re.search(pattern, path)]
    if len(found) != 1:
        what = "no sharding rule matches" if not found else f"rules {[pattern for pattern, _ in found]} all match"
        raise UserError(f"parameter {path} {list(shape)}: {what}; exactly one must")
    pattern, axes = found[0]
    if len(axes) > len(shape):
        raise UserError(f"sharding rule {pattern!r} names {len(axes)} axes, but {path} has shape {list(shape)}")
    lead = len(shape) - len(axes)
    fitted = [_fit(axis, shape[lead + i], lead + i, path, mesh, reports) for i, axis in enumerate(axes)]
    return P(*(None,) * lead, *fitted)


def _fit(axis: Axis, size: int, dim: int, path: str, mesh: Mesh | AbstractMesh, reports: list[str]) -> Axis:
    names = (axis,) if isinstance(axis, str) else (axis or ())
    unknown = [name for name in names if name not in mesh.shape]
    if unknown:
        raise UserError(f"sharding rule for {path}: no mesh axis {unknown[0]!r}; the mesh has {list(mesh.shape)}")
    shards = math.prod(mesh.shape[name] for name in names)
    if size % shards == 0:
        return axis
    reports.append(f"{path}: dimension {dim} of {size} stays whole, {axis}={shards} does not divide it")
    return None
