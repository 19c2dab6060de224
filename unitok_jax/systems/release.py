"""What a system says of its published checkpoints beyond the tables of rules: their settings and their files.

A system that can be imported without a recipe, or exported, has a module ``release`` with what `Release` names.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unitok_jax.errors import UserError
from unitok_jax.settings import near
from unitok_jax.systems import base
from unitok_jax.weights.source import Source

FORMATS = ("upstream", "transformers")


@dataclasses.dataclass(frozen=True)
class Found:
    """A published checkpoint that is to be imported.

    Attributes:
        where: what it is called in reports.
        folder: where its files lie.
        source: its tensors.
        settings: its ``config.json`` (or ``params.json``) or what stands in a torch file beside the tensors, empty
            where there is none.
    """

    where: str
    folder: Path
    source: Source
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an artefact is written.

    Attributes:
        artefact: the name of its table.
        folder: below the export's folder; empty is that itself.
        file: of a torch file, or of one safetensors file; empty writes safetensors under their usual names, in shards
            with an index where one file is too large.
        entry: of the torch file's dictionary under which the tensors lie; dots for deeper ones, empty for one bare
            tensor.
        beside: plain values that stand beside the tensors there.
        documents: other files by name, such as ``config.json``.
        loads: for the model card, how it is read.
    """

    artefact: str
    folder: str = ""
    file: str = ""
    entry: str | None = None
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    documents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loads: str = ""


class Release(Protocol):
    """What a system's module ``release`` offers.

    Attributes:
        VARIANTS: by name, what each kind of checkpoint that can be imported is.
    """

    VARIANTS: Mapping[str, str]

    def recipe(
        self, found: Sequence[Found], variant: str, vocabulary: str | None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The config that the checkpoints need, as plain JSON: ``system``, ``stage``, ``model`` and, if need be, more.

        `variant` is a name in `VARIANTS` or ``auto``; `vocabulary` the text tokenizer's file, where one was found. The
        second value tells, a line each, what the checkpoints leave open and how it was taken.
        """

    def vocabulary_of(self, found: Sequence[Found]) -> Path | None:
        """The text tokenizer's file beside the checkpoints, if there is one."""

    def layouts(self, system: Any, parts: Sequence[str], form: str) -> list[Layout]:
        """The artefacts that parameters of `parts` are written as in a format of `FORMATS`."""


def release_of(name: str) -> Release:
    """The module ``release`` of a system.

    Raises:
        UserError: if there is no such system, or it has none.
    """
    if name not in base.available():
        raise UserError(f"--system: no system {name!r}.{near(name, base.available())}")
    path = f"unitok_jax.systems.{name}.release"
    if importlib.util.find_spec(path) is None:
        raise UserError(f"--system {name}: does not say how its checkpoints lie on the disk; give --config RECIPE")
    module: Any = importlib.import_module(path)
    return module
