"""A raw data set to checked shards that stand alone: the work of `unitok prepare`.

One shard is one function of (source, shard number), and its bytes depend on nothing else; whoever has workers maps it
over the shards. A shard appears whole or not at all, its counts before it, so a job that was killed goes on with the
shards it lacks, and its report is that of one that was not.
"""

import dataclasses
import functools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from unitok_jax.data import files, records
from unitok_jax.data.bad_share import refuse_too_many_bad
from unitok_jax.data.example import BadExample
from unitok_jax.data.sources import RecordSource, open_source
from unitok_jax.data.standalone import decoded, stand_alone
from unitok_jax.data.tasks import TASKS, to_example
from unitok_jax.errors import UserError, writing
from unitok_jax.settings import near

REPORT = "report.json"
NAMED = 3  # bad records of a shard that the log names
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PrepareJob:
    """What is to be done; plain values, so that any worker can be told.

    Attributes:
        kind, options: of the source.
        folder: where the shards go, local or bucket.
        shards: how many there are.
        task: the name of the task that every record must serve; None asks for pictures that can be decoded.
    """

    kind: str
    options: Mapping[str, Any]
    folder: str
    shards: int
    task: str | None = None

    def missing(self) -> list[int]:
        """Prepares the folder and lists the shards that it lacks.

        Raises:
            UserError: for a source or task that there is none of, or a folder with the shards of another job.
        """
        if self.task is not None and self.task not in TASKS:
            raise UserError(f"--task: no task {self.task!r}.{near(self.task, TASKS)}")
        if self.shards < 1:
            raise UserError(f"--shards: expected 1 or more, got {self.shards}")
        source = {"kind": self.kind, **self.options}
        meta = {"source": source, "task": self.task, "records": len(self._source())}
        return records.start_shards(self.folder, meta, self.shards)

    def open(self) -> Callable[[int], Counter[str]]:
        """Opens the source once; what it returns makes one shard and counts its records, see `prepare_shard`."""
        return functools.partial(prepare_shard, self, self._source())

    def report(self, max_bad_share: float = 0.1) -> Counter[str]:
        """Sums the shards' counts into ``report.json``: ``written``, and what was skipped by reason.

        Raises:
            UserError: if a shard is missing, or, once the report is written, if all records are bad or, of 100 and
                more, a larger share than `max_bad_share`.
        """
        lacking = self.missing()
        if lacking:
            raise UserError(f"{self.folder}: shard {lacking[0]} is not done, run the same command again")
        counts = records.read_counts(self.folder, self.shards, range(self.shards))
        report = {"shards": self.shards, "counts": dict(counts.most_common())}
        files.write_whole(epath.Path(self.folder).expanduser() / REPORT, json.dumps(report, indent=1).encode())
        bad, read = counts - Counter({"written": counts["written"]}), counts.total()
        nothing = bool(bad) and not counts["written"]
        refuse_too_many_bad(read, bad, max_bad_share, "--max-bad-share", "--source", nothing)
        return counts

    def _source(self) -> RecordSource:
        return open_source(self.kind, self.options, "--source")


def prepare_shard(job: PrepareJob, source: RecordSource, shard: int) -> Counter[str]:
    """Writes one shard; returns how many records were written, and skipped by reason.

    Raises:
        UserError: if the folder cannot be written.
    """
    skipped: Counter[str] = Counter()
    checked = _checked(source, records.shard_span(len(source), job.shards, shard), job.task, skipped)
    with writing(job.folder):
        written = records.write_shard(job.folder, shard, job.shards, checked, skipped)
    return Counter({"written": written}) + skipped


def _checked(
    source: RecordSource, span: Sequence[int], task: str | None, skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """The good records of a shard."""
    for index in span:
        try:
            record = stand_alone(source[index], index)
            check(record, task)
        except BadExample as error:
            skipped[error.reason] += 1
            if skipped.total() <= NAMED:
                log.warning("skipped record %d: %s", index, error)
            continue
        yield record


def check(record: Mapping[str, Any], task: str | None) -> None:
    """Sees that a record can be used.

    Args:
        record: one that stands alone.
        task: what it must serve; None asks for pictures that can be decoded.

    Raises:
        BadExample: if not.
    """
    if task is None:
        decoded(record)
    else:
        to_example(task, record, (), np.random.default_rng(0))
