"""What a golden's handler works with: the case's files, comparisons that count, and mutations that must be seen.

A handler is ``handlers/<kind>.py`` (or ``handlers/<system>_<kind>.py`` where two systems share a kind's name) with

    def check(case: Case) -> None        sorts every tensor of io.safetensors
    MUTATIONS = {"siglip": (Mutation(...), ...)}     optional: changes that a comparison must notice, by the case's
                                                     name, or by kind for all cases that are not named
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unitok_jax.weights.containers import open_source
from unitok_jax.weights.rules import Table
from unitok_jax.weights.safetensors_files import SafetensorsFile
from unitok_jax.weights.source import Source
from unitok_jax.weights.transfer import export_tree, flat, import_tree, nested

FP32 = 3e-5  # largest difference allowed, as a share of the largest value expected


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A deliberate mistake.

    Attributes:
        name: for the test's id.
        config: wrong settings out of right ones (given to `Case.settings`).
        params: wrong parameters, flat by path, out of right ones (given to `Case.params`).
        patch: (object, attribute, wrong value), set while the handler runs.
    """

    name: str
    config: Callable[[Any], Any] | None = None
    params: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    patch: tuple[Any, str, Any] | None = None


class Noticed(Exception):
    """Ends a mutated run at the first comparison that fails; the rest need not be computed."""


class DoesNotApply(Exception):
    """A mutation changes parameters that this case's model has not."""


class Case:
    """One golden: ``config.json``, ``io.safetensors``, and ``weights.safetensors`` where it has weights."""

    def __init__(self, folder: Path, mutation: Mutation | None = None):
        self.folder, self.name, self.mutation = folder, folder.name, mutation
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self._io = SafetensorsFile(folder / "io.safetensors")
        self.names = tuple(self._io.keys())
        self.inputs: set[str] = set()
        self.compared: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.failures: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def matching(self, regex: str) -> tuple[str, ...]:
        """Names of the tensors that a regex matches whole."""
        return tuple(name for name in self.names if re.fullmatch(regex, name))

    def input(self, name: str) -> np.ndarray:
        """A tensor that the handler feeds in."""
        self.inputs.add(name)
        return np.array(self._io.read(name))

    def expected(self, name: str) -> np.ndarray:
        """A tensor as the reference has it, without sorting it yet."""
        return np.array(self._io.read(name))

    def skip(self, regex: str, reason: str) -> None:
        """Leaves out the tensors that a regex matches whole; it must match some."""
        found = self.matching(regex)
        assert found, f"skip({regex!r}) matches nothing"
        self.skipped |= dict.fromkeys(found, reason)

    def compare(self, name: str, ours: Any, rtol: float = FP32, atol: float = 0.0, where: Any = None) -> None:
        """Floats: ``max |ours - expected| <= rtol max |expected| + atol``; integers and booleans: equal.

        Args:
            name: the tensor expected.
            ours: of the same shape.
            rtol, atol: the tolerance; give others only with the case's README behind them.
            where: bool, broadcast to the shape; only these entries count.
        """
        self.compared.add(name)
        expected, ours = self.expected(name), np.asarray(ours)
        if expected.shape != ours.shape:
            return self._fail(f"{name}: shape {ours.shape}, expected {expected.shape}")
        if where is not None:
            kept = np.broadcast_to(where, expected.shape)
            assert kept.any(), f"{name}: where keeps nothing"
            expected, ours = expected[kept], ours[kept]
        message = _difference(ours, expected, rtol, atol)
        if message:
            self._fail(f"{name}: {message}")

    def _fail(self, message: str) -> None:
        self.failures.append(message)
        if self.mutation:
            raise Noticed

    def settings(self, config: Any) -> Any:
        """The module's config, or the mutation's."""
        return self.mutation.config(config) if self.mutation and self.mutation.config else config

    def weights(self) -> Source:
        """The reference's state dict."""
        return open_source(self.folder / "weights.safetensors")

    def params(self, table: Table, abstract: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """The reference's weights through the real rules (those under a key prefix), or the mutation's.

        Args:
            table: rules of the artefact.
            abstract: `jax.eval_shape` of the module's init.
            prefix: take only the keys that begin so, without it.
        """
        source = Below(self.weights(), prefix) if prefix else self.weights()
        params = import_tree(table, source, abstract)
        if self.mutation and self.mutation.params:
            params = nested(self.mutation.params(flat(params)))
        return jax.tree.map(jax.numpy.asarray, params)

    def compare_gradients(
        self, table: Table, gradients: Any, norms: str = "gradnorm.", full: str = "grad.", rtol: float = 1e-3
    ) -> None:
        """Compares every ``gradnorm.<key>`` with the 2-norm, and every ``grad.<key>`` with the values, of our gradient.

        Keys are the reference's: the gradient is exported through the rules, which only move numbers about.
        """
        ours = export_tree(table, gradients)
        for name in self.matching(re.escape(norms) + ".*"):
            self.compare(name, np.linalg.norm(np.asarray(ours.read(name.removeprefix(norms)), np.float64)), rtol)
        for name in self.matching(re.escape(full) + ".*"):
            self.compare(name, ours.read(name.removeprefix(full)), rtol)

    def unsorted(self) -> tuple[str, ...]:
        """Tensors that are neither input, compared nor skipped."""
        return tuple(n for n in self.names if n not in self.inputs | self.compared | self.skipped.keys())


class Below:
    """The tensors of a source whose keys begin with a prefix, without it."""

    def __init__(self, source: Any, prefix: str):
        self._source, self._prefix = source, prefix

    def keys(self) -> list[str]:
        return [key.removeprefix(self._prefix) for key in self._source.keys() if key.startswith(self._prefix)]  # noqa: SIM118

    def shape(self, key: str) -> tuple[int, ...]:
        return self._source.shape(self._prefix + key)

    def dtype(self, key: str) -> np.dtype:
        return self._source.dtype(self._prefix + key)

    def read(self, key: str) -> np.ndarray:
        return self._source.read(self._prefix + key)


def nchw(x: Any) -> np.ndarray:
    """Ours, [B, H, W, C], as the reference lays pictures out."""
    return np.moveaxis(np.asarray(x), -1, 1)


def nhwc(x: Any) -> np.ndarray:
    """The reference's [B, C, H, W] as ours."""
    return np.moveaxis(np.asarray(x), 1, -1)


def drop(pattern: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For `Mutation.params`: zeros in the leaves whose path a regex is found in."""
    return lambda leaves: {p: v * 0 if re.search(pattern, p) else v for p, v in _some(leaves, pattern).items()}


def swap(first: str, second: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For `Mutation.params`: exchanges every leaf whose path contains `first` with its counterpart at `second`."""

    def exchanged(leaves: dict[str, Any]) -> dict[str, Any]:
        pairs = {p: p.replace(first, second) for p in _some(leaves, re.escape(first))}
        pairs = {p: q for p, q in pairs.items() if p != q}
        return {**leaves, **{p: leaves[q] for p, q in pairs.items()}, **{q: leaves[p] for p, q in pairs.items()}}

    return exchanged


def _some(leaves: dict[str, Any], pattern: str) -> dict[str, Any]:
    if not any(re.search(pattern, path) for path in leaves):
        raise DoesNotApply(f"no parameter matches {pattern}")
    return leaves


def _difference(ours: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> str | None:
    if not np.issubdtype(expected.dtype, np.inexact):
        wrong = int((ours != expected).sum())
        return f"{wrong} of {expected.size} differ" if wrong else None
    ours, expected = ours.astype(np.float64), expected.astype(np.float64)
    if not expected.size:
        return None
    same = (ours == expected) | (np.isnan(ours) & np.isnan(expected))  # infinities and NaNs where they belong
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(ours - expected)).max()
    finite = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    limit = rtol * finite + atol
    return None if off <= limit else f"off by {off:.3g}, allowed {limit:.3g} (largest value {finite:.3g})"
