"""How long each record's row will be, known before any is laid out: what orders that cluster by length sort by.

A record may tell it (UniToken's release writes ``len`` into its record files). Where it does not, the stage measures it
from the words and the number of pictures; no picture is opened. Either way all records are read once, one after
another, and what was found can be kept in a folder for the next start.
"""

import dataclasses
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from unitok_jax.data import files
from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.pipeline import NamedRecords
from unitok_jax.data.sources import Scans
from unitok_jax.data.standalone import FIELDS
from unitok_jax.data.tasks import TASKS, to_example
from unitok_jax.errors import UserError

log = logging.getLogger(__name__)
UNREAD = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is not opened
TOLD_EVERY = 1_000_000  # records


@dataclasses.dataclass(frozen=True)
class Measure:
    """How a stage knows a row's length before it is laid out.

    Attributes:
        length: of an example whose pictures are not what they are; only their number counts.
        key: whatever `length` depends on: lengths that were kept under another key are not used.
    """

    length: Callable[[Example], int]
    key: str


def record_lengths(
    records: NamedRecords, where: str, measure: Measure | None = None, index: str | None = None
) -> Int[np.ndarray, " n"]:
    """The length of each record; 0 for one that cannot be read.

    Args:
        records: a source.
        where: the place in the config, for messages.
        measure: for records that have no number in the field `Entry.length`.
        index: the folder that keeps lengths between runs; None finds them anew.

    Raises:
        UserError: for a record without a number where there is no `measure`.
    """
    kept = epath.Path(index) / f"{_key(records, measure)}.npy" if index else None
    if kept is not None and kept.exists():
        return np.load(io.BytesIO(kept.read_bytes()))
    lengths = np.zeros(len(records), np.int64)
    for i, record in enumerate(_scan(records)):
        lengths[i] = 0 if record is None else _length(records, record, i, where, measure)
        if (i + 1) % TOLD_EVERY == 0:
            log.info("%s: lengths of %d of %d records", where, i + 1, len(records))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, lengths)
        files.write_whole(kept, content.getvalue())
    return lengths


def _scan(records: NamedRecords) -> Iterator[dict[str, Any] | None]:
    """The records in order; read in one go where the source `Scans`."""
    if isinstance(records.source, Scans):
        yield from (None if raw is None else records.named(raw, i) for i, raw in enumerate(records.source.scan()))
        return
    for i in range(len(records)):
        item = records[i]
        yield item[1] if isinstance(item, tuple) else None


def _length(records: NamedRecords, record: dict[str, Any], i: int, where: str, measure: Measure | None) -> int:
    told = record.get(records.entry.length)
    if isinstance(told, int | float | np.number) and math.isfinite(told):
        return int(told)
    if measure is None:
        raise UserError(
            f"{where}: record {i} has no number in {records.entry.length!r}, by which order 'clustered' sorts, and "
            "this stage does not measure it; write each row's length there, or take order 'grouped' or 'shuffled'"
        )
    entry, rng = records.entry, np.random.default_rng(0)
    prompts = entry.prompts or TASKS[entry.task][1]
    try:
        versions = [(version, prompt) for version in _versions(_unread(record)) for prompt in prompts or ("",)]
        return max(measure.length(to_example(entry.task, version, (prompt,), rng)) for version, prompt in versions)
    except BadExample:
        return 0


def _unread(record: dict[str, Any]) -> dict[str, Any]:
    """The record with stand-ins for its pictures and codes."""
    held = {name: value for name, value in record.items() if name != "codes"}
    shown = {name: held[name] for name in FIELDS if held.get(name) is not None}
    return held | {n: [UNREAD] * len(v) if isinstance(v, list | tuple) else UNREAD for n, v in shown.items()}


def _versions(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every caption or question that may be drawn of a record, by itself: the longest counts."""
    captions, questions = record.get("caption"), record.get("questions")
    if isinstance(captions, list | tuple):
        yield from ({**record, "caption": caption} for caption in captions)
    elif questions:
        pairs = zip(questions, record.get("answers") or (), strict=False)
        yield from ({**record, "questions": [question], "answers": [answer]} for question, answer in pairs)
    else:
        yield record


def _key(records: NamedRecords, measure: Measure | None) -> str:
    """A name for what the lengths depend on: the entry, its files' sizes and dates, and the measure."""
    place = records.entry.options.get("path")
    found = []
    for file in files.below(place) if isinstance(place, str) else ():
        stat = file.stat()
        found.append((file.name, stat.length, stat.mtime))
    told = [dataclasses.asdict(records.entry), len(records), found, measure and measure.key]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:24]
