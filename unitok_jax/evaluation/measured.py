"""What the suites over a source of pictures share: which pictures, work in parts that a killed run goes on from, and
what made a result."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from unitok_jax.data import pictures
from unitok_jax.data.example import BadExample
from unitok_jax.data.pictures import Picture
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError
from unitok_jax.evaluation import files
from unitok_jax.evaluation.provenance import provenance

_log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
Indices = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of a source that a suite looks at.

    Attributes:
        source: ``{"kind": ..., options}``, of `data.sources`.
        limit: so many of them, drawn by `seed`; 0 takes all.
        seed: of the draw.
    """

    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limit: int = 0
    seed: int = 0

    def opened(self) -> tuple[Any, Indices]:
        """The source, and the indices of its records that are looked at, ascending.

        Raises:
            UserError: without a source, or for one that cannot be opened.
        """
        if "kind" not in self.source:
            raise UserError("--source: missing; this suite needs pictures, such as --source folder path=pictures")
        options = {name: value for name, value in self.source.items() if name != "kind"}
        source = open_source(self.source["kind"], options, "--source")
        chosen = np.arange(len(source))
        if 0 < self.limit < len(chosen):
            chosen = np.sort(np.random.default_rng(self.seed).permutation(len(source))[: self.limit])
        return source, chosen


def read(source: Any, indices: Indices) -> tuple[list[int], list[Mapping[str, Any]], list[Picture]]:
    """Indices, records and pictures; what cannot be read is left out and named in the log."""
    places, records, images = [], [], []
    for index in indices:
        try:
            record = source[int(index)]
            if "image" not in record:
                raise BadExample("image missing", f"{record.get('id', index)}: no image")
            images.append(pictures.decode(record["image"], record.get("folder")))
            records.append(record)
            places.append(int(index))
        except BadExample as error:
            _log.warning("skipped record %d: %s", index, error)
    return places, records, images


def in_parts(
    out: epath.Path, made_by: Mapping[str, Any], indices: Indices, size: int, work: Callable[[Indices], Arrays]
) -> Arrays:
    """Runs `work` on `size` indices at a time and joins what it gives along the first axes.

    Each part is kept in a folder named by `made_by` until all are there: a run that was killed goes on with the parts
    that it lacks, and one of another checkpoint or other options never reads them.

    Raises:
        UserError: if no picture could be read.
    """
    folder = out / f".parts-{digest(made_by)[:12]}"
    parts = []
    for start in range(0, len(indices), size):
        path = folder / f"{start:09d}.npz"
        if not path.exists():
            with files.replacing(path) as file:
                arrays: dict[str, Any] = work(indices[start : start + size])
                np.savez(file, **arrays)
            _log.info("%d/%d pictures", min(start + size, len(indices)), len(indices))
        with path.open("rb") as file:
            parts.append(dict(np.load(file)))
    parts = [part for part in parts if part]
    if not parts:
        raise UserError("--source: none of its pictures could be read; see the log")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    folder.rmtree(missing_ok=True)
    return joined


def made_by(pipeline: Any, config: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    """`provenance` of a suite over a source; the resolution is told by the pictures, once they were seen."""
    options = json.loads(json.dumps(dataclasses.asdict(settings)))
    return provenance(pipeline, config, split=options["source"].get("split", "all"), resolution=None, **options)


def write_result(out: epath.Path, suite: str, figures: Mapping[str, float], told: Mapping[str, Any]) -> None:
    """Writes ``result.json``: the figures and what made them."""
    files.write_json(out / "result.json", {"suite": suite, "figures": dict(figures), "made_by": dict(told)})


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()
