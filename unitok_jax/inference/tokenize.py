"""A source's pictures to codes, shard by shard: the work of `unitok tokenize`.

Encoding one shard is one function of (pipeline, source, shard); shards are mapped over by processes, or by whatever
runs them. A shard appears whole or not at all, so a job that was killed goes on with the shards it lacks.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unitok_jax.data import records
from unitok_jax.data.bad_share import refuse_too_many_bad
from unitok_jax.data.example import BadExample
from unitok_jax.data.sources import RecordSource
from unitok_jax.data.standalone import FIELDS, decoded, stand_alone
from unitok_jax.inference.pipeline import Pipeline

log = logging.getLogger(__name__)
NAMED = 3  # bad records of a shard that the log names


def tokenize_source(
    pipeline: Pipeline,
    source: RecordSource,
    folder: str,
    meta: Mapping[str, Any],
    *,
    shards: int,
    keep_pictures: bool = True,
    max_bad_share: float = 0.1,
    process: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Counter[str]:
    """Writes the shards that `folder` lacks, of which this process takes every n-th.

    Args:
        pipeline: encodes.
        source: records; what they hold besides pictures is kept.
        folder: where the shards go, local or bucket.
        meta: what makes the codes (system, weights, source): a folder holds one such set.
        shards: how many there are in all.
        keep_pictures: whether records keep their pictures beside the codes, as systems that also read features need.
        max_bad_share: the share of bad records, once this process has read 100, above which it stops.
        process: (index, number of processes).
        progress: told (records passed, records of this process) after each batch.

    Returns:
        How many records were written (``written``) and how many were skipped, by reason, in this process's shards,
        those of an earlier run included.

    Raises:
        UserError: if `folder` holds the shards of another job, or too many records are bad; the shard that was being
            written is then left out, those before it stay.
    """
    meta = {**meta, "records": len(source), "pictures": keep_pictures}
    mine = range(process[0], shards, process[1])
    lacking = [shard for shard in records.start_shards(folder, meta, shards) if shard in mine]
    spans = {shard: records.shard_span(len(source), shards, shard) for shard in lacking}
    total, passed, bad = sum(map(len, spans.values())), 0, Counter()
    for shard, span in spans.items():
        skipped: Counter[str] = Counter()

        def tell(read: int, before: int = passed, bad: Counter[str] = bad, skipped: Counter[str] = skipped) -> None:
            refuse_too_many_bad(before + read, bad + skipped, max_bad_share, "--max-bad-share", "--source")
            if progress:
                progress(before + read, total)

        encode_shard(pipeline, source, folder, shards, keep_pictures, shard, skipped, tell)
        passed, bad = passed + len(span), bad + skipped
    return records.read_counts(folder, shards, mine)


def encode_shard(
    pipeline: Pipeline,
    source: RecordSource,
    folder: str,
    shards: int,
    keep_pictures: bool,
    shard: int,
    skipped: Counter[str] | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Writes one shard: what processes of a pod map over theirs, and Beam (`data.beam_jobs.EachShard`) over all.

    Args:
        pipeline, source, folder, shards, keep_pictures: see `tokenize_source`.
        shard: the number of this one.
        skipped: counts what is left out, by reason, while it runs.
        tell: told how many of its records are read.

    Returns:
        How many records were written, and skipped by reason.
    """
    skipped = Counter() if skipped is None else skipped
    span = records.shard_span(len(source), shards, shard)
    encoded = encode_records(pipeline, source, span, keep_pictures, skipped, tell)
    written = records.write_shard(folder, shard, shards, encoded, skipped)
    return Counter({"written": written}) + skipped


def encode_records(
    pipeline: Pipeline,
    source: RecordSource,
    span: Sequence[int],
    keep_pictures: bool,
    skipped: Counter[str],
    tell: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """The records of one shard with their ``codes``, one array a picture, and, of systems whose codes lie on a plane,
    the ``grids`` (rows and columns of each); bad records are left out and counted.

    `tell` is called with the records read so far, before the last of them are handed on.
    """
    named = 0
    for start in range(0, len(span), pipeline.settings.batch_size):
        read = []
        for index in span[start : start + pipeline.settings.batch_size]:
            try:
                read.append(_read(source[index], keep_pictures, index))
            except BadExample as error:
                skipped[error.reason] += 1
                named += 1
                if named <= NAMED:
                    log.warning("skipped record %d: %s", index, error)
        tell(min(start + pipeline.settings.batch_size, len(span)))
        yield from _with_codes(pipeline, read)


def _with_codes(pipeline: Pipeline, read: list[tuple[dict[str, Any], list[np.ndarray]]]) -> Iterator[dict[str, Any]]:
    coded = iter(pipeline.encode_each([image for _, found in read for image in found]))
    for record, found in read:
        codes, grids = zip(*itertools.islice(coded, len(found)), strict=True)
        yield {**record, "codes": list(codes), **({} if None in grids else {"grids": list(map(list, grids))})}


def _read(record: Mapping[str, Any], keep_pictures: bool, index: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A record as it is to be written, and its pictures."""
    whole = stand_alone(record, index)
    found = decoded(whole)
    return whole if keep_pictures else {k: v for k, v in whole.items() if k not in FIELDS}, found
