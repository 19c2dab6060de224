"""`unitok train`."""

import argparse

import absl.flags

from unitok_jax.config import load_config
from unitok_jax.evaluation.samples import SampleSheets
from unitok_jax.parallel import distributed
from unitok_jax.training import loop
from unitok_jax.training.profiling import read_steps


def train(args: argparse.Namespace) -> None:
    """Trains a recipe in a workdir."""
    config = load_config(args.config, args.overrides)
    absl.flags.FLAGS.mark_as_parsed()  # Grain's worker processes read them
    distributed.initialize()
    steps = read_steps(args.profile) if args.profile else None
    loop.train(config, args.workdir, samples=SampleSheets(config, args.workdir), profile=steps)
