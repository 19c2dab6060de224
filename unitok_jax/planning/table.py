"""`make plans`: the plans of all recipes on a few topologies, into a table. Killed and called again, it goes on.

    python -m unitok_jax.planning.table OUT RECIPE... [--topologies v5e:16x16 v5p:4x4x4 v6e:16x16]

What was compiled is kept in OUT.json by the hash of the recipe's config, topology and versions; a recipe that changed
is compiled anew, and one that is not named any more is dropped. OUT.md is the table. A change of the code is not seen:
remove OUT.json after one that moves memory or collectives.
"""

import argparse
import dataclasses
import datetime
import hashlib
import json
import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from unitok_jax.config import config_hash, load_config
from unitok_jax.errors import UserError
from unitok_jax.planning import report
from unitok_jax.planning.run import Target, candidates, make_plans
from unitok_jax.training.config import TrainConfig, read_config

TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4", "v6e:16x16")
PREFACE = """# What the recipes take of a pod

Made by `make plans`: each recipe's own train step, compiled by libtpu for chips that were not there. Where a recipe's
own mesh does not divide a slice, the first one that does was taken. Memory and collectives are the compiler's; FLOPs
are counted from what was traced, without what is recomputed; times, MFU and chip-hours are ESTIMATES from the makers'
peak rates (see `docs/scaling.md`), the hours for the recipe's whole run. No TPU ran any of this. ICI and DCN: GiB that
each chip sends in a step, as ring algorithms do it.
"""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    args = parser.parse_args(argv)
    kept = args.out.with_suffix(".json")
    wanted = {_key(recipe, topology): (recipe, topology) for recipe in args.recipes for topology in args.topologies}
    before = json.loads(kept.read_text()) if kept.exists() else {}
    done = {key: found for key, found in before.items() if key in wanted and not found.get("crashed")}
    for key, (recipe, topology) in wanted.items():
        if key not in done:
            done[key] = _about(recipe, topology) | apart(_plan, recipe, topology)
        _write(kept, json.dumps(done, indent=1, sort_keys=True))
        _write(args.out, render(done))


def render(done: Mapping[str, Any]) -> str:
    """The page of everything that was compiled."""
    rows = sorted((found["recipe"], found["topology"], found["row"]) for found in done.values() if "row" in found)
    failed = sorted(f"- {f['recipe']} on {f['topology']}: {f['error']}" for f in done.values() if "error" in f)
    made = sorted({f"{found['date']}, {found['versions']}" for found in done.values()})
    parts = [PREFACE, report.table([row for *_, row in rows]), *failed, "Made: " + "; ".join(made) + "."]
    return "\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:]) + "\n"


def _key(recipe: str, topology: str) -> str:
    """What a plan is kept under: a recipe that changed has another one."""
    words = f"{recipe} {config_hash(load_config(recipe))} {topology} {_versions()}"
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _about(recipe: str, topology: str) -> dict[str, Any]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"recipe": recipe, "topology": topology, "versions": _versions(), "date": today}


def apart(plan: Callable[[str, str], dict[str, Any]], recipe: str, topology: str) -> dict[str, Any]:
    """Plans in a process of its own, which libtpu may end: some convolutions overflow its compiler's stack."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(plan, recipe, topology).result()
        except BrokenProcessPool:
            log.warning("%s on %s: the compiler ended its process", recipe, topology)
            return {"error": "the compiler ended its process", "crashed": True}


def _plan(recipe: str, topology: str) -> dict[str, Any]:
    """A row, or why there is none; what only the compiler fails at is tried again the next time."""
    jax.config.update("jax_platforms", "cpu")
    try:
        target = Target(topology)
        (made,) = make_plans(_dividing(read_config(load_config(recipe))[0], target), target)
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        log.exception("%s on %s", recipe, topology)
        return {"error": f"the compiler failed: {str(error).splitlines()[0]}", "crashed": True}
    log.warning("%s on %s: %.0f s", recipe, topology, made.compile_seconds)
    return {"row": report.row(recipe.removeprefix("configs/"), made)}


def _dividing(config: TrainConfig, target: Target) -> TrainConfig:
    """The recipe with its own mesh, or, where that does not divide the chips, with the first one that does."""
    chips = len(target.devices)
    if config.mesh.fsdp == -1 and config.batch_size % (config.accumulate * chips) == 0:
        return config
    for mesh, batch in candidates(config.batch_size, chips, target.slices, config.accumulate):
        if batch == config.batch_size:
            return dataclasses.replace(config, mesh=mesh)
    raise UserError(f"no mesh of {chips} chips divides {config.batch_size} rows")


def _versions() -> str:
    try:
        libtpu = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        libtpu = "missing"
    return f"jax {jax.__version__}, libtpu {libtpu}"


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text)
    draft.replace(path)


if __name__ == "__main__":
    main()
