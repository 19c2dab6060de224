"""Shards made by Apache Beam (extra ``beam``): the same pipeline on this machine, Dataflow, Flink or Spark.

The unit of work is a shard number; what becomes of it is a job's own function, opened once a worker. Workers need this
package installed, and the job's folder and source where they can reach them.
"""

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from unitok_jax.errors import UserError

ShardFunction = Callable[[int], Counter[str]]
# Beam's `DirectRunner` would first fetch and start a program of its own (Prism); this one runs in Python alone.
LOCAL = "FnApiRunner"
TOLD = "UserError: "  # what stands before a user's mistake in the text of a traceback
_FORMAT = logging.Formatter()
_NAMES = {LOCAL: "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}


class EachShard(beam.DoFn):
    """Makes shards from their numbers; yields (reason, count) pairs and counts them in Beam's metrics too.

    Args:
        open_job: called once a worker; gives the function of a shard number. Must be picklable:
            `PrepareJob.open`, or a partial of whatever loads a model and returns
            a partial of `inference.tokenize.encode_shard`.
    """

    def __init__(self, open_job: Callable[[], ShardFunction]):
        self._open_job = open_job

    def setup(self) -> None:
        """Opens the source, or loads the model."""
        self._shard = self._open_job()

    def process(self, shard: int) -> Iterator[tuple[str, int]]:
        """Makes one shard."""
        for reason, count in self._shard(shard).items():
            Metrics.counter("unitok", reason).inc(count)
            yield reason, count


def run_shards(
    open_job: Callable[[], ShardFunction], shards: Sequence[int], runner: str = LOCAL, options: Sequence[str] = ()
) -> None:
    """Maps a job over shards and waits for the end.

    Args:
        open_job: see `EachShard`.
        shards: the numbers of those to be made.
        runner: Beam's name of a runner.
        options: the runner's own, as on Beam's command lines (``--project=...``).

    Raises:
        UserError: for a runner or option that Beam does not take, or a mistake that a worker met.
    """
    read = _read_options(options)
    try:
        pipeline = beam.Pipeline(runner=_NAMES.get(runner, runner), options=read)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner {runner}: {' '.join(str(error).split())}") from None
    numbers = pipeline | "Shards" >> beam.Create(list(shards)) | "Spread" >> beam.Reshuffle()
    numbers | "Make" >> beam.ParDo(EachShard(open_job))
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        raise _mistake(runner, error) or error from None


def _read_options(options: Sequence[str]) -> PipelineOptions:
    """Reads them all at once: Beam would do so later, and end the process at a wrong one."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            read = PipelineOptions(list(options))
            read.get_all_options()
    except SystemExit:
        raise UserError(f"--beam: {said.getvalue().splitlines()[-1].partition('error: ')[2]}") from None
    return read


def _mistake(runner: str, error: Exception) -> UserError | None:
    """What the user can mend in what a runner raised: a worker's mistake, handed on as text, or its own start."""
    text = str(error)
    told = [line.partition(TOLD)[2] for line in text.splitlines() if TOLD in line]
    if isinstance(error, UserError):
        told = [text]
    if told:
        return UserError(told[-1].partition(" [while running")[0])
    return None if "Traceback" in text else UserError(f"--runner {runner}: {' '.join(text.split())}")


# A mistake is told once, in one line; Beam would log its traceback too.
logging.getLogger("apache_beam.runners.common").addFilter(lambda record: TOLD not in _FORMAT.format(record))
