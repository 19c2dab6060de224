"""Uses a tiny model through the command line's loader on meshes of 8 devices and on one, in a process of its own.

``decode_run.py RECIPE MESH...`` with a mesh as `--mesh` takes it, axes joined by ``+``; prints one JSON object:
mesh -> {what: whether it is what one device gives}.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
STEPS = 10
TEXTS = ("a red apple", "two blue birds on a wire", "a house", "night")


def save(recipe: str, workdir: Path) -> None:
    """A run of the recipe at its first step."""
    from unitok_jax.config import load_config
    from unitok_jax.training.checkpoints import Checkpoints
    from unitok_jax.training.config import claim_workdir, read_config
    from unitok_jax.training.setup import prepare

    config, plain = read_config(load_config(str(ROOT / recipe)))
    claim_workdir(workdir, plain)
    checkpoints = Checkpoints(workdir, 1)
    state = prepare(config, jax.devices()[:1]).first_state()
    checkpoints.save(1, state, {"cursors": np.zeros(1)}, plain)
    checkpoints.close()


def use(workdir: Path, mesh: str | None, devices: int) -> dict[str, Any]:
    """Captions, and ids drawn under guidance, with the first devices; the caches lie as the mesh has them."""
    from unitok_jax.conversion.loading import load_run
    from unitok_jax.data.example import Example, Task, Turn
    from unitok_jax.inference import decode as loop
    from unitok_jax.sampling.draw import sample_keys

    with mock.patch("jax.local_devices", lambda: jax.devices()[:devices]):
        pipeline, _ = load_run(workdir, mesh)
    settings = pipeline.settings
    pipeline.settings = dataclasses.replace(settings, read=dataclasses.replace(settings.read, max_steps=STEPS))
    pictures = np.random.default_rng(0).integers(0, 256, (len(TEXTS), 32, 32, 3), dtype=np.uint8)
    captions = pipeline.caption(pictures)
    decoding = dataclasses.replace(settings.draw, max_steps=STEPS, guidance=3.0, noise_steps=3)
    examples = [Example(text, (Turn("user", text),), task=Task.GENERATION) for text in TEXTS]
    batch = pipeline._batch(examples, list(map(pipeline.system.prompt, examples)), decoding)
    with pipeline.on_mesh():
        start = loop.prefill(pipeline.system, pipeline.params, batch, sample_keys(np.arange(len(TEXTS))), decoding)
        check_cache(start.cache, pipeline.mesh)
        done = loop.decode_chunk(pipeline.system, pipeline.params, start, decoding, STEPS)
        check_cache(done.cache, pipeline.mesh)
    ids = [row.tolist() for row in loop.written(done)]
    assert all(ids), "every sample wrote something"
    return {"captions": captions, "ids": ids}


def check_cache(cache: Any, mesh: Any) -> None:
    """Rows lie over the axes of the batch, heads over `tensor`, where they divide."""
    for memory in (*cache.keys, *cache.values):
        layers, rows, heads, *rest = memory.shape
        data, fsdp, tensor, _ = mesh.devices.shape
        wanted = (layers, rows // (data * fsdp), heads // tensor if heads % tensor == 0 else heads, *rest)
        assert memory.sharding.shard_shape(memory.shape) == wanted, (memory.sharding, memory.shape)


def main(recipe: str, *meshes: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    with tempfile.TemporaryDirectory() as folder:
        save(recipe, Path(folder))
        expected = use(Path(folder), None, 1)
        found = {}
        for mesh in meshes:
            got = use(Path(folder), mesh.replace("+", ",") if mesh != "default" else None, 8)
            found[mesh] = {what: got[what] == expected[what] for what in expected}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
