"""`unitok evaluate`."""

import argparse
import logging
import shlex
import sys
import time
from typing import Any

from etils import epath

from unitok_jax.cli.prepare import source_options
from unitok_jax.conversion.loading import load_run, using
from unitok_jax.errors import writing
from unitok_jax.evaluation import files
from unitok_jax.evaluation.benchmarks import BENCHMARKS
from unitok_jax.evaluation.suites import REPORTS, suite
from unitok_jax.parallel import distributed
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.metrics import read_metrics
from unitok_jax.training.workdir import read_workdir, workdir_hash

OPTIONS = ("limit", "seed", "classes", "lpips", "fid", "prompts", "samples", "guidance")


def evaluate(args: argparse.Namespace) -> None:
    """Runs a suite on a workdir's model, prints the figures, and writes them and what the suite has besides."""
    run = suite(args.suite)
    if args.suite in BENCHMARKS:
        distributed.initialize()  # several processes share the drawing
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("unitok_jax").setLevel(logging.INFO)
    pipeline, config = load_run(args.workdir, args.mesh)
    out = epath.Path(args.out or epath.Path(args.workdir) / args.suite)
    settings = {**run_of(args.workdir, config), "evaluation": config.evaluation, "options": _options(args)}
    with using(pipeline, config), writing(out):
        figures = run(pipeline, settings, out)
        if args.started is not None:
            figures = {**figures, "seconds": round(time.time() - args.started, 1)}
            files.write_json(out / "metrics.json", figures)
        told = out / "result.json"
        if args.suite in REPORTS:
            commands = [shlex.join(["unitok", *sys.argv[1:]])]
            told = REPORTS[args.suite](out, _curves(args.workdir, config), commands)
    for name, value in figures.items():
        print(f"{name}\t{value:.4g}")
    print(f"report\t{told}")


def run_of(workdir: str, config: TrainConfig) -> dict[str, Any]:
    """What `evaluation.provenance` tells of a run."""
    run = {"config hash": workdir_hash(workdir), "step": str(find_step(workdir))}
    return {"system": config.system, "seed": config.seed, **run}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says to the suite; a suite refuses what it does not know."""
    given: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS}
    if args.source:
        given["source"] = {"kind": args.source[0], **source_options(args.source[1:])}
    return {name: value for name, value in given.items() if value is not None}


def _curves(workdir: str, config: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    """The metrics of a run after those of the runs that it began from, as far as they are still there."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for source in dict.fromkeys(config.init_from.values()):
        if (epath.Path(source) / "config.json").exists():
            curves |= {name: rows for name, rows in _curves(source, read_workdir(source)).items() if name not in curves}
    return {**curves, epath.Path(workdir).name: read_metrics(workdir)}
