"""The vocabulary's loss on gathered positions, on meshes of 8 devices against one device's, in a process of its own.

``loss_run.py MESH...`` with a mesh such as ``2,1,1,4`` (data, fsdp, tensor, context); prints one JSON object: mesh ->
[largest error of loss and gradients against the largest number, share of one device's FLOPs].
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

sys.path[:0] = [str(Path(__file__).parents[2])]
ROWS, LENGTH, ROOM, WIDTH, IDS = 8, 64, 16, 32, 512


def main(*meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from unitok_jax.parallel.mesh import BATCH_AXES, MeshSettings, build_mesh
    from unitok_jax.systems.loss_positions import score_words

    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(ROWS, LENGTH, WIDTH)), rng.normal(size=(WIDTH, IDS))
    batch = {name: rng.integers(0, 4, (ROWS, LENGTH)) for name in ("targets", "task")}
    batch["loss_weights"] = np.float32(rng.permuted(np.arange(ROWS * LENGTH).reshape(ROWS, -1), axis=1) % LENGTH < ROOM)
    system = types.SimpleNamespace(config=types.SimpleNamespace(lm=types.SimpleNamespace(vocab_size=IDS)))
    system.head = lambda params: params

    def loss(hidden: Any, kernel: Any, batch: Any) -> Any:
        sums = score_words(system, kernel, hidden, batch, ROOM)
        return sums.nll.sum() + 1e-2 * sums.z.sum(), sums

    def run(mesh: MeshSettings, devices: int) -> tuple[list[np.ndarray], float]:
        mesh = build_mesh(mesh, jax.devices()[:devices])
        cut, whole = NamedSharding(mesh, P(BATCH_AXES, "context")), NamedSharding(mesh, P(None, "tensor"))
        inputs = np.float32(hidden), np.float32(kernel), batch
        placed = tuple(jax.device_put(x, place) for x, place in zip(inputs, (cut, whole, cut), strict=True))
        with jax.set_mesh(mesh):
            step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)).lower(*placed).compile()
            return list(map(np.asarray, jax.tree.leaves(step(*placed)))), step.cost_analysis()["flops"]

    (expected, flops), found = run(MeshSettings(), 1), {}
    assert expected[0] > 0 and jnp.isfinite(expected[0])
    for mesh in meshes:
        ours, own = run(MeshSettings(*map(int, mesh.split(","))), 8)
        off = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, expected, strict=True))
        found[mesh] = [off, own / flops]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
