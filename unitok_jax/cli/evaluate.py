"""`unitok evaluate`."""

import argparse
import logging
import shlex
import sys
import time
from typing import Any

from etils import epath

from unitok_jax.cli.models import load_pipeline, using
from unitok_jax.errors import writing
from unitok_jax.evaluation import files, report
from unitok_jax.evaluation.suites import suite
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.metrics import read_metrics
from unitok_jax.training.workdir import read_workdir


def evaluate(args: argparse.Namespace) -> None:
    """Runs a suite on a workdir's model, prints the figures, and writes them, their pictures and a report."""
    run = suite(args.suite)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("unitok_jax").setLevel(logging.INFO)
    pipeline, config = load_pipeline(args.workdir, args.mesh)
    out = epath.Path(args.out or epath.Path(args.workdir) / args.suite)
    settings = {"system": config.system, "seed": config.seed, "evaluation": config.evaluation}
    with using(pipeline, config), writing(out):
        figures = run(pipeline, settings, out)
        if args.started is not None:
            figures = {**figures, "seconds": round(time.time() - args.started, 1)}
            files.write_json(out / "metrics.json", figures)
        page = report.write_report(out, _curves(args.workdir, config), [shlex.join(["unitok", *sys.argv[1:]])])
    for name, value in figures.items():
        print(f"{name}\t{value:.4g}")
    print(f"report\t{page}")


def _curves(workdir: str, config: TrainConfig) -> dict[str, list[dict[str, Any]]]:
    """The metrics of a run after those of the runs that it began from, as far as they are still there."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for source in dict.fromkeys(config.init_from.values()):
        if (epath.Path(source) / "config.json").exists():
            curves |= {name: rows for name, rows in _curves(source, read_workdir(source)).items() if name not in curves}
    return {**curves, epath.Path(workdir).name: read_metrics(workdir)}
