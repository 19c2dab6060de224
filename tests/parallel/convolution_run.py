"""Compares the gradients of a discriminator's convolutions on a mesh of 8 devices with one device's.

``convolution_run.py MESH...`` with a mesh such as ``2,2,2,1``; prints one JSON object: mesh -> largest error of a
gradient, the pictures' included, against its norm. `layers.conv.CONV_KERNEL` says what it guards against.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]


def main(*meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)

    from unitok_jax.backbones.discriminators import SHARDING, DiscriminatorSettings, init_discriminator, judge
    from unitok_jax.parallel.mesh import MeshSettings, batch_sharding, build_mesh
    from unitok_jax.parallel.rules import param_shardings, under

    settings = DiscriminatorSettings("resnet", width=32, layers=1)
    params = {"discriminator": init_discriminator(settings, jax.random.key(0))[0]}
    pictures = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)

    def loss(params: dict, pictures: jax.Array) -> jax.Array:
        return jax.numpy.sin(judge(settings, params["discriminator"], {}, pictures)[0]).sum()

    def gradients(shape: str) -> list[np.ndarray]:
        sizes = MeshSettings(*map(int, shape.split(",")))
        mesh = build_mesh(sizes, jax.devices()[: 1 if shape == "1,1,1,1" else 8])
        places = param_shardings(under("discriminator", SHARDING), params, mesh)[0], batch_sharding(mesh)
        step = jax.jit(jax.grad(loss, (0, 1)), in_shardings=places, out_shardings=places)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(step(params, pictures))]

    expected = gradients("1,1,1,1")

    def error(mesh: str) -> float:
        pairs = zip(gradients(mesh), expected, strict=True)
        return max(float(np.linalg.norm(got - leaf) / np.linalg.norm(leaf)) for got, leaf in pairs)

    print(json.dumps({mesh: error(mesh) for mesh in meshes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
