"""Import and export: the two ways to read one table of rules, tensor by tensor, with no model held twice."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from unitok_jax.errors import UserError
from unitok_jax.weights.rules import Link, Table, links
from unitok_jax.weights.source import AnyArray, Source
from unitok_jax.weights.transforms import Shape, Transform

Place = Callable[[str, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Read:
    """One link with what it finds upstream: the keys as the source spells them and the layout they have there."""

    link: Link
    keys: tuple[str, ...]
    transform: Transform


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters as ``{"lm/head/kernel": leaf}``."""
    return traverse_util.flatten_dict(tree, sep="/")


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def shapes_of(tree: Mapping[str, Any]) -> dict[str, Shape]:
    """Shapes of nested parameters (arrays or `jax.ShapeDtypeStruct`) by path."""
    return {path: tuple(leaf.shape) for path, leaf in flat(tree).items()}


def upstream_shapes(table: Table, abstract: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes of the checkpoint that parameters of these shapes are exported to."""
    found = links(table, shapes_of(abstract))
    shapes = {key: shape for link in found for key, shape in zip(link.keys, link.key_shapes(), strict=True)}
    return shapes | {key: value.shape for key, value in table.constants.items()}


def plan(table: Table, upstream: Mapping[str, Shape], abstract: Mapping[str, Any]) -> tuple[Read, ...]:
    """Pairs every upstream tensor with parameters, on shapes alone.

    Args:
        table: the artefact's rules.
        upstream: shapes by key, as found.
        abstract: the parameters to fill, nested; only shapes are looked at.

    Raises:
        UserError: naming the first key or parameter that is missing, left over, matched twice or of another shape.
    """
    names = _spelled(table, upstream)
    reads = tuple(_read(link, names, upstream) for link in links(table, shapes_of(abstract)))
    used = {key for read in reads for key in read.keys}
    for key in upstream:
        if key not in used and not table.ignores(table.canonical(key)):
            wanted = [key for read in reads for key in read.link.keys]
            raise UserError(f"{key} {upstream[key]}: no parameter takes this tensor{_nearest(key, wanted)}")
    return reads


def import_tree(
    table: Table, source: Source, abstract: Mapping[str, Any], place: Place = lambda path, leaf: leaf
) -> dict[str, Any]:
    """Reads parameters from a checkpoint.

    Args:
        table: the artefact's rules.
        source: where the tensors lie; each is read when its turn comes.
        abstract: nested `jax.ShapeDtypeStruct` (or arrays) of the parameters. Their dtypes are the ones loaded to.
        place: called with the path and the finished host array of each leaf; what it returns (say, the array put on
            the devices) goes into the tree, so that the host holds one leaf at a time.

    Raises:
        UserError: see `plan`; also for tied tensors that differ.
    """
    leaves = incoming(table, source, abstract)
    return nested({path: place(path, leaf.read()) for path, leaf in leaves.items()})


class Incoming:
    """A parameter that lies in a checkpoint: its shape and type are known, its values are read when asked for.

    Attributes:
        shape, dtype: of the parameter.
    """

    def __init__(self, shape: Shape, dtype: Any, fillers: list[tuple[Read, int]], source: Source):
        self.shape, self._fillers, self._source = tuple(shape), fillers, source
        self.dtype = np.dtype(self._stored() if dtype is None else dtype)

    @property
    def nbytes(self) -> int:
        """Size of the whole parameter."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[tuple[int | None, AnyArray]]:
        """Each layer's slice with its index along the first axis; a parameter that is not stacked whole, under None."""
        return ((index, piece.astype(self.dtype, copy=False)) for index, piece in self._stored_pieces())

    def read(self) -> AnyArray:
        """The whole parameter."""
        out = np.empty(self.shape, self.dtype)
        for index, piece in self._stored_pieces():  # cast by the assignment, without a copy
            out[... if index is None else index] = piece
        return out

    def _stored_pieces(self) -> Iterator[tuple[int | None, np.ndarray]]:
        for read, number in self._fillers:
            yield read.link.slots[number].index, _ours(read, number, self._source)

    def _stored(self) -> Any:
        """The type that holds what upstream has without loss."""
        types = {self._source.dtype(key) for read, _ in self._fillers for key in read.keys}
        return functools.reduce(jnp.promote_types, types)


def incoming(table: Table, source: Source, abstract: Mapping[str, Any], as_stored: bool = False) -> dict[str, Incoming]:
    """Parameters of a checkpoint by path, none of them read yet.

    Args:
        table: the artefact's rules.
        source: where the tensors lie.
        abstract: nested shapes and types.
        as_stored: take the checkpoint's types in the place of those.

    Raises:
        UserError: see `plan`; reading a leaf also raises for tied tensors that differ.
    """
    fillers: dict[str, list[tuple[Read, int]]] = {}
    for read in plan(table, {key: source.shape(key) for key in tuple(source.keys())}, abstract):
        for number, slot in enumerate(read.link.slots):
            fillers.setdefault(slot.path, []).append((read, number))
    specs = flat(abstract)
    return {
        path: Incoming(spec.shape, None if as_stored else spec.dtype, fillers[path], source)
        for path, spec in specs.items()
        if path in fillers
    }


class Exported:
    """Parameters seen as an upstream checkpoint: a `Source` that converts a tensor when it is read."""

    def __init__(self, table: Table, params: Mapping[str, Any], dtype: Any = None):
        self._leaves, self._constants = flat(params), table.constants
        self._dtype = dtype
        self._links = {key: (link, i) for link in links(table, shapes_of(params)) for i, key in enumerate(link.keys)}

    def keys(self) -> Iterable[str]:
        return (*self._links, *self._constants)

    def shape(self, key: str) -> Shape:
        if key in self._constants:
            return self._constants[key].shape
        link, number = self._links[key]
        return link.key_shapes()[number]

    def dtype(self, key: str) -> np.dtype:
        if key in self._constants:
            return self._constants[key].dtype
        link, _ = self._links[key]
        return np.dtype(self._dtype or self._leaves[link.slots[0].path].dtype)

    def read(self, key: str) -> AnyArray:
        if key in self._constants:
            return self._constants[key]
        link, number = self._links[key]
        tensors = [self._upstream(link, slot.path, slot.index, key) for slot in link.slots]
        return link.rule.kind.part(tensors, number, len(link.keys)).astype(self.dtype(key), copy=False)

    def _upstream(self, link: Link, path: str, index: int | None, key: str) -> np.ndarray:
        leaf = self._leaves[path]
        try:
            return link.rule.transform.to_upstream(np.asarray(leaf if index is None else leaf[index]))
        except UserError as error:
            raise UserError(f"{path} -> {key}: {error}") from None


def export_tree(table: Table, params: Mapping[str, Any], dtype: Any = None) -> Source:
    """Parameters as the upstream checkpoint, for a container's writer.

    Args:
        table: the artefact's rules.
        params: nested arrays; only the leaf (or layer) being written is brought to the host.
        dtype: of the tensors written; by default each leaf's own.

    Raises:
        UserError: for a parameter that the table does not cover.
    """
    return Exported(table, params, dtype)


def _ours(read: Read, number: int, source: Source) -> np.ndarray:
    """One slot's values; the sides of a `Split` read their upstream tensor once each."""
    link, transform = read.link, read.transform
    tensors = [source.read(key) for key in read.keys]
    try:
        parts = link.rule.kind.join(tensors, [transform.upstream_shape(slot.shape) for slot in link.slots])
        return transform.to_ours(parts[number], link.slots[number].shape)
    except UserError as error:
        raise UserError(f"{' = '.join(read.keys)}: {error}") from None


def _spelled(table: Table, upstream: Iterable[str]) -> dict[str, str]:
    """The rules' name of each key -> the key as the source spells it."""
    names: dict[str, str] = {}
    for key in upstream:
        name = table.canonical(key)
        if name in names:
            raise UserError(f"{key}: the checkpoint holds it twice, also as {names[name]}")
        names[name] = key
    return names


def _read(link: Link, names: Mapping[str, str], upstream: Mapping[str, Shape]) -> Read:
    for key, shape in zip(link.keys, link.key_shapes(), strict=True):
        if key not in names:
            raise UserError(f"{key} {shape}: missing in the checkpoint{_nearest(key, names)}")
    keys = tuple(names[key] for key in link.keys)
    found = tuple(tuple(upstream[key]) for key in keys)
    for transform in (link.rule.transform, *link.rule.also):
        if link.key_shapes(transform) == found:
            return Read(link, keys, transform)
    for key, shape, wanted in zip(keys, found, link.key_shapes(), strict=True):
        if shape != wanted:
            raise UserError(f"{key}: has shape {shape}, the config's {link.slots[0].path} needs {wanted}")
    raise AssertionError("shapes differ, but no shape differs")


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f"; the nearest that is there: {close[0]}" if close else ""


def size_of(source: Source) -> int:
    """Bytes of all of a source's tensors."""
    return sum(math.prod(source.shape(key)) * source.dtype(key).itemsize for key in tuple(source.keys()))
