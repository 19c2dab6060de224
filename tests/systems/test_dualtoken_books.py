"""DualToken's codebooks learn from the global batch: what `settle` puts in place is the same on any mesh."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import functools

import jax

jax.config.update("jax_num_cpu_devices", 4)

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from test_dualtoken_model import MODEL

from unitok_jax.parallel.mesh import MeshSettings, build_mesh
from unitok_jax.systems import base

model = {name: value for name, value in MODEL.items() if name not in ("lm", "head")}
system = base.build("dualtoken", model)
options = dict(semantic=0.0, semantic_cosine=0.0, pooler=0.0, pooler_cosine=0.0, perceptual=0.0)
(phase,) = base.build_stage(system, "tokenizer", options).phases
params = jax.jit(lambda: system.init(jax.random.key(0), system.tokenizer_parts))()
contrasts = jnp.arange(1, 9).reshape(8, 1, 1, 1, 1) / 8
pictures = contrasts * jax.random.uniform(jax.random.key(1), (8, 1, 8, 8, 3), minval=-1)
filled = jnp.ones((8, 1), bool).at[5].set(False)


def step(params, pictures, filled):
    batch = {"pixels": {"tower": pictures}, "filled": {"tower": filled}, "totals": {"pictures": jnp.float32(7)}}
    _, aux, state, carry = phase.loss(params, {"step": jnp.int32(0)}, batch, jax.random.key(2), {})
    carry = jax.tree.map(lambda x: x[None], carry)
    moved, _ = phase.settle(params, state, jax.random.key(3), carry)
    return moved["codebooks"], {name: aux[f"codebook/{name}/dead"].compute() for name in ("pix", "sem")}


one, dead = jax.jit(step)(params, pictures, filled)
before = params["codebooks"]
assert not jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b), one, before))
mesh = build_mesh(MeshSettings(data=2, fsdp=2))
rows = NamedSharding(mesh, P(("data", "fsdp")))
with jax.set_mesh(mesh):
    many, dead_there = jax.jit(step)(params, *jax.device_put((pictures, filled), rows))
for ours, theirs in zip(jax.tree.leaves(many), jax.tree.leaves(one)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
assert dead == dead_there and float(dead["pix"]) > 0

# Were each device to average its own rows alone, the books would differ.
apart = jax.jit(step)(params, pictures[:2], filled[:2])[0]
assert not np.allclose(apart["pix"]["book_0"]["total"], one["pix"]["book_0"]["total"], atol=1e-3)
"""


@pytest.mark.slow
def test_any_mesh_gives_the_books_of_one_device():
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n{PROGRAM}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
