"""Whether the data pipeline keeps up: rows a second into the device against what a recipe's train step takes.

    python -m benchmarks.data
    python -m benchmarks.data --config configs/demo/tar_lm.py --workers 2

Everything of the recipe but its weights, which are drawn. A ratio above 1 means that the step never waits.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import options as asked
from benchmarks.contest import race
from benchmarks.report import Row, publish
from unitok_jax.config import load_config
from unitok_jax.training.config import TrainConfig, read_config
from unitok_jax.training.feed import Feed
from unitok_jax.training.setup import prepare


def run(options: asked.Options) -> None:
    """One row: the feed and the step of a recipe."""
    config = _config(options)
    setup = prepare(config)
    config = dataclasses.replace(config, fresh=tuple(setup.abstract.params), init_from={})
    setup = dataclasses.replace(setup, config=config)
    with jax.set_mesh(setup.mesh):
        feed = Feed(config, setup.stage, setup.mesh)
        try:
            feed.start()
            times = race(_contestants(setup, feed, options.extra.steps), options.rounds)
        finally:
            feed.close()
    rows = config.batch_size * options.extra.steps
    workers = config.data_settings.workers
    name = f"{options.extra.config}, {workers} workers"
    publish("data", f"Rows into the device, {config.batch_size} a batch", options, [Row(name, rows, "rows", times)])


def _contestants(setup: Any, feed: Feed, steps: int) -> dict[str, Callable[[], None]]:
    """`ours` is the feed; `step` the train step on one batch again and again: its time over ours is the margin."""
    step, (batch, _) = setup.train_step(), feed.next()
    held = {"state": setup.first_state()}

    def read() -> None:
        for _ in range(steps):
            jax.block_until_ready(feed.next()[0])

    def train() -> None:
        for _ in range(steps):
            held["state"], _ = step(held["state"], batch)
        jax.block_until_ready(held["state"])

    return {"ours": read, "step": train}


def _config(options: asked.Options) -> TrainConfig:
    config, _ = read_config(load_config(options.extra.config))
    data = {**config.data, "workers": options.extra.workers, "prefetch": options.extra.prefetch}
    return dataclasses.replace(config, data=data, compute_dtype=options.dtype)


def add(parser: Any) -> None:
    """Options of this benchmark."""
    parser.add_argument("--config", default="configs/demo/stage2.py", metavar="FILE[:ARG]", help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read (default: %(default)s)")
    parser.add_argument("--prefetch", type=int, default=0, help="batches made ahead (default: 0, so that none is free)")
    parser.add_argument("--steps", type=int, default=8, help="batches a run (default: %(default)s)")


main: Callable[..., int] = functools.partial(asked.main, doc=__doc__, run=run, add=add)

if __name__ == "__main__":
    sys.exit(main(None))
