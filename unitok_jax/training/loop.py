"""`train`: from a recipe and a workdir to a trained model."""

import collections
import contextlib
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from unitok_jax.errors import Preempted, UserError
from unitok_jax.parallel.preemption import Notice
from unitok_jax.systems.base import Params
from unitok_jax.training.checkpoints import Checkpoints
from unitok_jax.training.config import TrainConfig, claim_workdir, read_config
from unitok_jax.training.feed import Feed
from unitok_jax.training.flops import ideal_seconds
from unitok_jax.training.metrics import MetricWriter, Window
from unitok_jax.training.profiling import Profiler, ProfileSteps
from unitok_jax.training.progress import Progress
from unitok_jax.training.setup import prepare
from unitok_jax.training.state import TrainState, average_params
from unitok_jax.training.step import EvalStep
from unitok_jax.training.workdir import record_origins

AHEAD = 2  # steps that may be queued on the device: enough to keep it busy, few enough to keep memory flat

Samples = Callable[[Params, int], None]  # draws a sheet of samples from the parameters after a step


def train(
    config: Any, workdir: epath.PathLike, samples: Samples | None = None, profile: ProfileSteps | None = None
) -> TrainState:
    """Trains, or goes on from the workdir's last complete checkpoint.

    Killed at any moment and called again, it ends in the same state with the same metrics (``time/`` apart). After
    SIGTERM it saves and stops at the end of a step, which adds a row of metrics there.

    Args:
        config: a recipe, see `TrainConfig`.
        workdir: a local or bucket path, for config, checkpoints and metrics.
        samples: called every `config.sample_every` steps.
        profile: steps to trace into ``workdir/profile``.

    Returns:
        The last state.

    Raises:
        UserError: for whatever the user can mend.
        Preempted: once it has saved after SIGTERM.
    """
    config, plain = read_config(config)
    workdir, first = epath.Path(workdir), jax.process_index() == 0

    # What to train, and where.
    setup = prepare(config)
    claim_workdir(workdir, plain, write=first)
    phases = [phase.name for phase in setup.stage.phases]
    progress = Progress(workdir.name, config.steps, phases, ideal=ideal_seconds(config, setup.mesh))
    for report in setup.reports:
        progress.say(f"not sharded: {report}")

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(setup.mesh))
        notice = stack.enter_context(Notice())
        profiler = stack.enter_context(contextlib.closing(Profiler(workdir, profile)))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, config.keep)))
        feed = stack.enter_context(contextlib.closing(Feed(config, setup.stage, setup.mesh)))

        # From where: the last checkpoint, or the first state.
        start = checkpoints.latest or 0
        if start:
            state, streams = checkpoints.restore(start, setup.abstract, feed.abstract_state)
            progress.say(f"goes on from step {start} of {config.steps}")
        else:
            state, streams = setup.first_state(), None
            if first:
                record_origins(workdir, setup.commits())
        feed.start(streams)
        writer = MetricWriter(workdir, start, active=first)

        # The steps. Numbers leave the device only where they are logged.
        train_step, eval_step = setup.train_step(), setup.eval_step()
        window, queued = Window(), collections.deque()
        if start < config.steps:
            progress.say(f"compiling for {setup.mesh.size} {jax.devices()[0].platform} device(s)")
        progress.begin(start)
        for step in range(start + 1, config.steps + 1):
            with progress.waiting(queued[-1] if queued else None):
                batch, notes = feed.next()
            profiler.before(step)
            state, aux = train_step(state, batch)
            profiler.after(step, aux["skipped_in_a_row"].value)
            window.add(aux, notes)
            queued.append(aux["skipped_in_a_row"].value)
            if len(queued) > AHEAD:
                queued.popleft().block_until_ready()
            checkpoints.check()

            last, preempted = step == config.steps, notice.given(step)
            saves = last or preempted or step % config.checkpoint_every == 0
            if saves or step % config.log_every == 0:
                row = window.flush()
                row |= progress.row(step, row)
                writer.write(step, row)
                progress.tell(step, row)
                feed.check()
                _stop_if_not_finite(config, step, row)
            with progress.paused():
                if _due(config.eval_every, step, last):
                    writer.write(step, _validate(feed, eval_step, state))
                if samples is not None and _due(config.sample_every, step, last):
                    samples(average_params(state), step)
                if saves:
                    writer.close_part(step)
                    checkpoints.save(step, state, feed.state, plain)
            if preempted and not last:
                raise Preempted(f"told to stop: {workdir} is saved at step {step} of {config.steps}; start it again")
    return state


def _due(every: int, step: int, last: bool) -> bool:
    return every > 0 and (last or step % every == 0)


def _validate(feed: Feed, eval_step: EvalStep, state: TrainState) -> dict[str, float]:
    """Every validation set's metrics, as ``validation/<set>/<metric>``."""
    row = {}
    for name in feed.validation_names:
        window = Window()
        for batch in feed.validation(name):
            window.add(eval_step(state, batch))
        row |= {f"validation/{name}/{metric}": value for metric, value in window.flush().items()}
    return row


def _stop_if_not_finite(config: TrainConfig, step: int, row: dict[str, float]) -> None:
    if row["skipped_in_a_row"] < config.max_nonfinite:
        return
    phases = [name.removeprefix("skipped/") for name, count in row.items() if name.startswith("skipped/") and count]
    raise UserError(
        f"step {step}: loss or gradient of phase {' and '.join(phases)} not finite in {row['skipped_in_a_row']} steps "
        "in a row (config.max_nonfinite); lower the learning rate, clip the gradient or look at the data"
    )
