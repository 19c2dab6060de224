"""Loads parts of a system from a published checkpoint whose kind is told by its keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitok_jax.errors import UserError
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.rules import Table, key_regex, matcher
from unitok_jax.weights.source import Source
from unitok_jax.weights.transfer import Place, import_tree


def load_published(
    artefacts: Mapping[str, Table],
    path: str | Path,
    abstract: Mapping[str, Any],
    place: Place = lambda path, leaf: leaf,
) -> dict[str, Any]:
    """Reads the parts that `abstract` names out of a published checkpoint.

    Args:
        artefacts: a system's tables by name (`System.artefacts`).
        path: the checkpoint, see `open_source`.
        abstract: the wanted parts, nested `jax.ShapeDtypeStruct`; what the checkpoint holds besides is passed over.
        place: see `import_tree`.

    Raises:
        UserError: if no artefact has these parts and these keys, or the one that fits best does not fit whole.
    """
    source = open_source(path)
    table = artefacts[recognise(artefacts, source, tuple(abstract), str(path))]
    try:
        return import_tree(table.only(*abstract), source, abstract, place)
    except UserError as error:
        hint = table.hint({key: source.shape(key) for key in tuple(source.keys())}) if table.hint else ""
        raise UserError(f"{path}: {error}{f'; {hint}' if hint else ''}") from None


def recognise(artefacts: Mapping[str, Table], source: Source, parts: tuple[str, ...], where: str) -> str:
    """The artefact that has `parts` and fits the source's keys best.

    It leaves the fewest of them over; among equals, knows most of them; among equals, waits for the fewest others.

    Raises:
        UserError: if none has the parts, or none knows any key.
    """
    fitting = {name: table for name, table in artefacts.items() if set(parts) <= set(table.parts)}
    if not fitting:
        raise UserError(f"{where}: no published artefact holds {' and '.join(parts)} together; load them apart")
    keys = tuple(source.keys())
    ranks = {name: _rank(table, keys) for name, table in fitting.items()}
    best = max(ranks, key=lambda name: ranks[name])
    if not ranks[best][1]:
        raise UserError(f"{where}: its keys ({keys[0]}, ...) are none that {' or '.join(fitting)} has")
    return best


def _rank(table: Table, keys: tuple[str, ...]) -> tuple[int, int, int]:
    """(minus the keys left over, keys known, minus the rules for which there is no key)."""
    names = [table.canonical(key) for key in keys]
    templates = {key: matcher([key_regex(key)]) for rule in table.rules for key in rule.upstreams}
    knows = matcher(key_regex(key) for key in templates)
    known = [name for name in names if knows(name)]
    left = sum(not table.ignores(name) for name in set(names) - set(known))
    waiting = sum(not any(map(matches, known)) for matches in templates.values())
    return (-left, len(known), -waiting) if known else (-len(names), 0, 0)
