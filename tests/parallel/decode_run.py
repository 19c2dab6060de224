"""Draws with a tiny recipe on meshes of 8 devices and on one, in a process of its own.

``decode_run.py RECIPE MESH...``; prints one JSON object: mesh -> whether all ids are those of one device.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
SAMPLES, STEPS = 4, 24


def main(recipe: str, *meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from unitok_jax.config import load_config
    from unitok_jax.data.example import Example, Task, Turn
    from unitok_jax.inference import decode as loop
    from unitok_jax.inference.prompts import prompt_batch
    from unitok_jax.inference.settings import InferenceSettings
    from unitok_jax.parallel.mesh import MeshSettings, batch_sharding
    from unitok_jax.sampling.draw import sample_keys
    from unitok_jax.settings import from_config
    from unitok_jax.training.config import read_config
    from unitok_jax.training.setup import prepare

    config = read_config(load_config(str(ROOT / recipe)))[0]
    config = dataclasses.replace(config, data={**config.data, "batch_size": 8})
    settings = from_config(InferenceSettings, config.inference, "config.inference")
    decoding = dataclasses.replace(settings.draw, max_steps=STEPS, guidance=3.0)

    def draw(mesh: MeshSettings, devices: int) -> list[Any]:
        setup = prepare(dataclasses.replace(config, mesh=mesh), jax.devices()[:devices])
        texts = ("a red apple", "two blue birds on a wire", "a house", "night")
        examples = [Example(text, (Turn("user", text),), task=Task.GENERATION) for text in texts]
        rows = [*map(setup.system.prompt, examples), *map(setup.system.unconditional, examples)]
        batch = jax.device_put(prompt_batch(rows), batch_sharding(setup.mesh) if devices % 8 == 0 else None)
        params = setup.first_state().params
        with jax.set_mesh(setup.mesh):
            done = loop.decode(setup.system, params, batch, sample_keys(np.arange(SAMPLES)), decoding)
            return [ids.tolist() for ids in loop.written(done)]

    expected = draw(MeshSettings(), 1)
    assert all(expected), "every sample wrote something"
    print(json.dumps({mesh: draw(MeshSettings(*map(int, mesh.split(","))), 8) == expected for mesh in meshes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
