"""`unitok plan`."""

import argparse
import dataclasses
import json
import os
import sys

import jax

from unitok_jax.config import load_config
from unitok_jax.planning import report
from unitok_jax.planning.plan import Plan
from unitok_jax.planning.run import Target, make_plans, search
from unitok_jax.training.config import TrainConfig, read_config


def plan(args: argparse.Namespace) -> None:
    """Compiles a recipe for a TPU topology and says what it takes."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are absent; what devices there are is not asked
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    target = Target(args.topology, args.slices)
    config = _fitted(read_config(load_config(args.config, args.overrides))[0], args.slices)
    target.devices  # noqa: B018  a wrong topology is told before anything is built
    found = search(config, target, _tell, args.decode) if args.search else make_plans(config, target, args.decode)
    if args.json:
        print(json.dumps({"plans": [made.to_json() for made in found]}, indent=1))
    elif args.search:
        print(report.table([report.row(f"{args.config} {made.program}", made) for made in found]))
    else:
        print("\n\n".join(map(report.tell, found)))


def _tell(made: Plan) -> None:
    print(report.tell(made) + "\n", file=sys.stderr, flush=True)


def _fitted(config: TrainConfig, slices: int) -> TrainConfig:
    """Several slices lie along the data axis, which a recipe for one slice keeps at 1."""
    if slices > 1 and config.mesh.data == 1:
        return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=slices))
    return config
