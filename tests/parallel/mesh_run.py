"""Compares a recipe's train step on meshes of 8 devices with one device's, in a process of its own.

``mesh_run.py RECIPE OVERRIDES MESH...`` with a mesh such as ``2,2,2,1`` (data, fsdp, tensor, context); prints one JSON
object: mesh -> {what: largest error}, and the smallest margin of a code. Rows are made up from the stage's spec: two
examples a row, every kind of position.

The optimizer is Adam with a large rate and epsilon, so that its update follows the gradient: where a gradient is zero
but for rounding, Adam as it is would move by the whole rate in a direction of chance.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from code_margins import MARGIN, Margins

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
BATCH, TRIES = 8, 60
NUDGES, NUDGE = 3, 5e-7  # how often, and how far, parameters are moved to see whether gradients jump
JUMP = 4e-4  # of a gradient, as a share of its norm; without a kink they move by less, over one by 2e-3 and more
CALM = {"lr": 0.1, "eps": 1.0, "schedule": {"name": "constant"}}
SMALL_SCORES = 64 * 64  # so that tiny rows, too, take the blockwise attention of long ones


def made_up_rows(spec: Any, codes: bool, rng: np.random.Generator) -> dict[str, Any]:
    """A batch whose every field is legal: text, then the outputs of each view, in each of two examples."""
    from unitok_jax.data import packing

    batch = packing.empty(spec, BATCH, codes)
    for view, pixels in batch.get("pixels", {}).items():
        batch["pixels"][view] = rng.integers(0, 256, pixels.shape).astype(np.uint8)
    for view, filled in batch.get("filled", {}).items():
        batch["filled"][view] = np.ones_like(filled)
    if "codes" in batch:
        batch["codes"] = rng.integers(0, 4, batch["codes"].shape).astype(np.int32)
    if "labels" in batch:
        batch["labels"] = rng.integers(0, 4, BATCH).astype(np.int32)
    if spec.length:
        _write_positions(batch, spec, rng)
    return batch


def _write_positions(batch: dict[str, Any], spec: Any, rng: np.random.Generator) -> None:
    from unitok_jax.data.rows import DRAW, Modality

    length, room = spec.length, {name: view.images * view.outputs for name, view in spec.views.items()}
    half = length // 2
    for name in ("tokens", "targets"):
        batch[name] = rng.integers(2, 60, (BATCH, length)).astype(np.int32)
    batch["positions"] = np.tile(np.concatenate([np.arange(half), np.arange(length - half)]), (BATCH, 1)).astype(
        np.int32
    )
    batch["segments"] = np.repeat([[1, 2]], [half, length - half], axis=1).repeat(BATCH, 0).astype(np.int32)
    batch["segments"][:, -3:] = 0
    batch["loss_weights"] = (rng.random((BATCH, length)) < 0.7).astype(np.float32) * (batch["segments"] > 0)
    batch["task"] = np.where(batch["segments"] == 1, 2, 3).astype(np.int8) * (batch["segments"] > 0)
    start = 4
    for name, view in spec.views.items():
        outputs = min(room[name], half - start - 2)
        if outputs > 0 and view.outputs:
            batch["modality"][:, start : start + outputs] = view.modality
            batch["slots"][:, start : start + outputs] = np.arange(outputs)
            start += outputs
    if "blocks" in batch:
        batch["blocks"][:, 4:start] = np.arange(start - 4) // 2
    batch["targets"][:, :-1][batch["modality"][:, 1:] == Modality.CODE] = DRAW
    for name, where in (("loss_positions", batch["targets"] != DRAW), ("visual_positions", batch["targets"] == DRAW)):
        learnt = (batch["loss_weights"] > 0) & where
        batch["loss_weights"][learnt & (learnt.cumsum(1) > (getattr(spec, name) or length))] = 0


def calm(config: Any) -> Any:
    """The recipe with the optimizer of the module's text, a moving average that moves, and one micro-batch."""
    from unitok_jax.training.config import EmaSettings

    phases = {name: {**settings, **CALM} for name, settings in config.optimizers.items()}
    return dataclasses.replace(
        config,
        data={**config.data, "batch_size": BATCH},
        accumulate=1,
        optimizer={**config.optimizer, **CALM},
        optimizers=phases,
        ema=EmaSettings(0.5),
    )


def nudged(params: Any, seed: int) -> Any:
    """The parameters, each up or down by a few roundings."""
    signs = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x * (1 + NUDGE * signs.choice([-1, 1], x.shape))).astype(x.dtype), params)


def take_step(
    setup: Any, step: Any, batch: Any, margins: Margins | None = None, nudge: int | None = None
) -> dict[str, Any]:
    """One train step from the first state: losses, gradients (Adam's first moments), how all else moved, and whence.

    `margins` then holds those of the step alone; with `nudge`, a seed, it begins from `nudged` parameters.
    """
    from unitok_jax.parallel.mesh import batch_sharding

    state = setup.first_state()
    if nudge is not None:
        state = state.replace(params=nudged(state.params, nudge))
    start = jax.tree.map(np.array, {"params": state.params, "ema": state.ema})  # the step donates them
    if margins:
        margins.clear()
    with jax.set_mesh(setup.mesh):
        state, aux = step(state, jax.device_put(batch, batch_sharding(setup.mesh)))
    losses = {phase.name: aux[f"loss/{phase.name}"].compute() for phase in setup.stage.phases}
    moments = {name: optax.tree.get(moved, "mu") for name, moved in state.opt_state.items()}
    found = {"loss": losses, "gradient": moments, "state": state.state, "params": state.params, "ema": state.ema}
    return jax.tree.map(np.asarray, found) | {"start": start}


def settled_batch(setup: Any, step: Any, codes: bool, margins: Margins) -> tuple[Any, dict[str, Any], float]:
    """A batch whose every code has a margin over `MARGIN`, what a step on it gives, and the smallest margin.

    A row that lacks one gives way to the same row of the next made-up batch; the others stay at their places, as the
    noise of a drawn code depends on the place. Rounding may also carry an activation over a kink (LPIPS's rectifiers,
    the sign of L1), after which all gradients below jump: where `nudged` parameters do, the rows give way in turn.
    """
    batch = made_up_rows(setup.stage.spec, codes, np.random.default_rng(0))
    for seed in range(1, TRIES):
        found = take_step(setup, step, batch, margins)
        by_row = margins.by_row(BATCH)
        margin, poor = float(by_row.min()), by_row <= MARGIN
        if not poor.any():
            nudges = (errors(take_step(setup, step, batch, nudge=n), found)["gradient"][0] for n in range(NUDGES))
            if all(moved < JUMP for moved in nudges):
                return batch, found, margin
            poor[seed % BATCH] = True
        more = made_up_rows(setup.stage.spec, codes, np.random.default_rng(seed))
        for row in np.flatnonzero(poor):
            jax.tree.map(lambda old, new, row=row: old.__setitem__(row, new[row]), batch, more)
    raise AssertionError(f"no batch of {TRIES} has margins over {MARGIN} and steady gradients")


def errors(got: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """By what, the largest error and where: of a loss and a state against itself, of a gradient against its norm (or a
    millionth of all gradients' norm), of what moved against its move and a hundredth of itself.

    Some gradients are rounding alone: of the keys' bias, as a softmax does not see what its keys have in common, and of
    what a tiny UniWeTok's first adaptive norm adds, as the next norm has a group a channel. They are judged by the norm
    of the keys' kernel's and of the adaptive scale's, and their moves by those'.
    """
    whole = float(optax.tree.norm(expected["gradient"]))

    def pairs(what: str) -> Iterator[tuple[float, str]]:
        flat, found = (flatten(tree[what]) for tree in (expected, got))
        starts = flatten(expected["start"].get(what, {}))

        def size(path: str) -> float:
            own = float(np.linalg.norm(flat[path]))
            if path in starts:
                return float(np.linalg.norm(flat[path] - starts[path])) + 0.01 * own
            return max(own, 1e-6 * whole) if what == "gradient" else own

        for path in flat:
            judges = [path, path.replace("/k/bias", "/k/kernel").replace("/adaptive_0/beta/", "/adaptive_0/gamma/")]
            yield float(np.linalg.norm(found[path] - flat[path])) / max(1e-7, *map(size, judges)), path

    def flatten(tree: Any) -> dict[str, np.ndarray]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x, np.float64) for path, x in leaves}

    return {what: max(pairs(what), default=(0.0, "")) for what in ("loss", "gradient", "state", "params", "ema")}


def main(recipe: str, overrides: str, *meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)

    from unitok_jax.config import load_config
    from unitok_jax.layers import attention
    from unitok_jax.parallel.mesh import MeshSettings
    from unitok_jax.training.config import read_config
    from unitok_jax.training.setup import prepare

    attention.MATERIALISE = SMALL_SCORES
    config = calm(read_config(load_config(str(ROOT / recipe), json.loads(overrides)))[0])

    def prepared(mesh: MeshSettings, devices: int) -> Any:
        return prepare(dataclasses.replace(config, mesh=mesh), jax.devices()[:devices])

    with Margins() as margins:
        alone = prepared(MeshSettings(), 1)
        batch, expected, margin = settled_batch(alone, alone.train_step(), config.data_settings.codes, margins)
    assert all(np.isfinite(value) for value in expected["loss"].values()), expected["loss"]
    found = {}
    for mesh in meshes:
        setup = prepared(MeshSettings(*map(int, mesh.split(","))), 8)
        found[mesh] = errors(take_step(setup, setup.train_step(), batch), expected)
    losses = {name: float(value) for name, value in expected["loss"].items()}
    print(json.dumps({"errors": found, "losses": losses, "margin": margin}))


if __name__ == "__main__":
    main(*sys.argv[1:])
