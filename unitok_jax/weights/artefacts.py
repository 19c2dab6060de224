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
        raise UserError(f"{path}: {error}") from None


def recognise(artefacts: Mapping[str, Table], source: Source, parts: tuple[str, ...], where: str) -> str:
    """The artefact that has `parts` and knows most of the source's keys.

    Raises:
        UserError: if none has the parts, or none knows any key.
    """
    fitting = {name: table for name, table in artefacts.items() if set(parts) <= set(table.parts)}
    if not fitting:
        raise UserError(f"{where}: no published artefact holds {' and '.join(parts)} together; load them apart")
    keys = tuple(source.keys())
    scores = {name: _score(table, keys) for name, table in fitting.items()}
    best = max(scores, key=lambda name: scores[name])
    if not scores[best]:
        raise UserError(f"{where}: its keys ({keys[0]}, ...) are none that {' or '.join(fitting)} has")
    return best


def _score(table: Table, keys: tuple[str, ...]) -> int:
    known = matcher(key_regex(key) for rule in table.rules for key in rule.upstreams)
    return sum(known(table.canonical(key)) for key in keys)
