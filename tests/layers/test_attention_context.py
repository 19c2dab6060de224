"""Attention over rows whose positions are cut over the mesh axis `context`."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import re
from functools import partial

import jax

jax.config.update("jax_num_cpu_devices", 4)

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from unitok_jax.layers import attention as module
from unitok_jax.layers.attention import attention, xla_attention
from unitok_jax.layers.attention_kernels import splash_attention
from unitok_jax.layers.masks import self_mask
from unitok_jax.parallel.mesh import MeshSettings, build_mesh

keys = jax.random.split(jax.random.key(0), 3)
inputs = [jax.random.normal(key, (2, 256, heads, 16)) for key, heads in zip(keys, (4, 2, 2))]
segments = np.repeat([[1, 2, 0], [1, 1, 1]], [80, 120, 56], axis=1).astype(np.int32)
blocks = np.where(np.arange(256) // 32 % 2, np.arange(256) // 64, -1)[None].repeat(2, 0).astype(np.int32)
module.MATERIALISE = 1024


def gradients(run, mask):
    return jax.grad(lambda q, k, v: jnp.sum(run(q, k, v, mask, scale=0.3) ** 2), (0, 1, 2))


def check(run, mask, mesh):
    expected = jax.jit(gradients(xla_attention, mask))(*inputs)
    place = NamedSharding(mesh, P(("data", "fsdp"), "context", "tensor"))
    with jax.set_mesh(mesh):
        step = jax.jit(gradients(run, mask), in_shardings=place, out_shardings=place)
        compiled = step.lower(*inputs).compile()
        ours = compiled(*jax.device_put(inputs, place))
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, atol=1e-4)
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    sent = re.findall(f" ({kinds})(?:-start)?[(]", compiled.as_text())
    assert sent and not set(sent) & {"all-to-all", "collective-permute"}, sent


half = build_mesh(MeshSettings(data=1, tensor=2, context=2))
whole = build_mesh(MeshSettings(data=2, context=2))
check(partial(attention, backend="blockwise"), self_mask(segments), half)
check(partial(attention, backend="blockwise"), self_mask(segments, blocks), whole)
check(partial(splash_attention, interpret=True), self_mask(segments), half)
"""


def test_each_device_reads_the_keys_of_the_whole_row():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
