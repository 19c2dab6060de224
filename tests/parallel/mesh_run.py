"""Compares a recipe's losses, gradients and state on meshes of 8 devices with one device's, in a process of its own.

``mesh_run.py RECIPE OVERRIDES MESH...`` with a mesh such as ``2,2,2,1`` (data, fsdp, tensor, context); prints one JSON
object: mesh -> {what: largest error}. Rows are made up from the stage's spec: two examples a row, every kind
of position.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
BATCH = 8
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


def gradients(setup: Any, batch: Any) -> dict[str, Any]:
    """Each phase's loss and gradient, and the state after all of them."""
    from unitok_jax.parallel.mesh import cut_positions
    from unitok_jax.systems.pixels import float_pixels
    from unitok_jax.training import partition
    from unitok_jax.training.state import shardings_of

    def run(params: Any, state: Any, batch: Any) -> dict[str, Any]:
        micro = cut_positions(jax.tree.map(lambda x: x[None], batch), setup.stage.spec.length, setup.mesh)
        batch = jax.tree.map(lambda x: x[0], micro)
        batch = float_pixels(batch | {"totals": setup.stage.counts(batch)})
        found, carry = {"loss": {}, "gradient": {}}, {}
        for phase in setup.stage.phases:
            trained, rest = partition.split(params, setup.optimizers[phase.name].members)

            def loss_of(
                trained: Any, phase: Any = phase, rest: Any = rest, state: Any = state, carry: Any = carry
            ) -> Any:
                key = jax.random.key(7)
                loss, *others = phase.loss(partition.merge(rest, trained), state, batch, key, carry)
                return loss, others

            (loss, (_, state, carry)), grad = jax.value_and_grad(loss_of, has_aux=True)(trained)
            carry = jax.lax.stop_gradient(carry)
            places = shardings_of(partition.split(setup.abstract.params, setup.optimizers[phase.name].members)[0])
            found["loss"][phase.name] = loss
            found["gradient"][phase.name] = jax.lax.with_sharding_constraint(grad, places)
        return found | {"state": state}

    state = setup.first_state()
    with jax.set_mesh(setup.mesh):
        return jax.tree.map(np.asarray, jax.jit(run)(state.params, state.state, batch))


def errors(got: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The largest relative error of a loss, of a gradient against its norm, and of the state."""

    def off(a: np.ndarray, b: np.ndarray) -> float:
        scale = float(np.linalg.norm(np.asarray(b, np.float64)))
        difference = float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)))
        return difference / scale if scale > 1e-7 else difference

    def worst(name: str) -> tuple[float, str]:
        pairs = jax.tree_util.tree_leaves_with_path(expected[name])
        values = jax.tree.leaves(got[name])
        found = [(off(a, b), jax.tree_util.keystr(path)) for a, (path, b) in zip(values, pairs, strict=True)]
        return max(found, default=(0.0, ""))

    return {name: worst(name) for name in expected}


def main(recipe: str, overrides: str, *meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    import dataclasses

    from unitok_jax.config import load_config
    from unitok_jax.layers import attention
    from unitok_jax.parallel.mesh import MeshSettings, batch_sharding
    from unitok_jax.training.config import read_config
    from unitok_jax.training.setup import prepare

    attention.MATERIALISE = SMALL_SCORES
    config = read_config(load_config(str(ROOT / recipe), json.loads(overrides)))[0]
    config = dataclasses.replace(config, data={**config.data, "batch_size": BATCH}, accumulate=1)

    def run(mesh: MeshSettings, devices: int) -> dict[str, Any]:
        setup = prepare(dataclasses.replace(config, mesh=mesh), jax.devices()[:devices])
        batch = made_up_rows(setup.stage.spec, config.data_settings.codes, np.random.default_rng(0))
        return gradients(setup, jax.device_put(batch, batch_sharding(setup.mesh)))

    expected = run(MeshSettings(), 1)
    found = {}
    for mesh in meshes:
        found[mesh] = errors(run(MeshSettings(*map(int, mesh.split(","))), 8), expected)
    assert all(np.isfinite(value) for value in expected["loss"].values()), expected["loss"]
    print(json.dumps({"errors": found, "losses": {k: float(v) for k, v in expected["loss"].items()}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
