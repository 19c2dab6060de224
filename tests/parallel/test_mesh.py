"""Mesh shapes, sharding rules and local rows, on the abstract devices of a fake machine."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unitok_jax.errors import UserError
from unitok_jax.parallel import mesh as meshes
from unitok_jax.parallel.distributed import from_global, initialize, local_rows, to_global
from unitok_jax.parallel.mesh import MeshSettings, batch_sharding, build_mesh
from unitok_jax.parallel.rules import follow, param_shardings


def shape(settings: MeshSettings, devices: int, slices: int = 1) -> tuple[int, ...]:
    return meshes.mesh_shape(settings, devices, slices)


def test_open_axis_takes_what_is_left():
    assert shape(MeshSettings(), 8) == (8, 1, 1, 1)
    assert shape(MeshSettings(data=1, fsdp=-1, tensor=2), 8) == (1, 4, 2, 1)
    assert shape(MeshSettings(data=2, fsdp=2, tensor=1, context=2), 8) == (2, 2, 1, 2)


@pytest.mark.parametrize(
    ("settings", "devices", "slices", "words"),
    [
        (MeshSettings(tensor=3), 8, 1, "8 devices; nearest: data=2 x fsdp=1 x tensor=4 x context=1"),
        (MeshSettings(data=2, fsdp=5), 8, 1, "data=2 x fsdp=4"),
        (MeshSettings(data=1, fsdp=8), 8, 2, "in 2 slices"),
        (MeshSettings(data=-1, fsdp=-1), 8, 1, "one axis at most may be -1"),
        (MeshSettings(data=0), 8, 1, "1 or more"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_nearest(settings, devices, slices, words):
    with pytest.raises(UserError, match=words):
        shape(settings, devices, slices)


@dataclasses.dataclass(frozen=True)
class Absent:
    """What the layout of a mesh asks of a device."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "absent"


def test_slices_lie_along_data():
    devices = [Absent(i, i % 2) for i in range(8)]
    mesh = build_mesh(MeshSettings(data=4, fsdp=-1), devices)
    assert mesh.devices.shape == (4, 2, 1, 1)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}, {0}, {1}, {1}]


def test_mesh_axes_are_auto():
    mesh = build_mesh()
    assert mesh.axis_names == ("data", "fsdp", "tensor", "context")
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


MESH = AbstractMesh((2, 2, 2, 1), meshes.AXES)
PARAMS = {
    "lm": {"up": {"kernel": jax.ShapeDtypeStruct((3, 4, 6), "float32")}, "norm": jax.ShapeDtypeStruct((4,), "float32")},
    "head": {"kernel": jax.ShapeDtypeStruct((4, 7), "float32")},
}
RULES = ((r"kernel", ("fsdp", "tensor")), (r"norm", ()))


def test_rules_speak_of_trailing_axes():
    shardings, reports = param_shardings(RULES, PARAMS, MESH)
    assert shardings["lm"]["up"]["kernel"].spec == P(None, "fsdp", "tensor")
    assert shardings["lm"]["norm"].spec == P(None)
    assert shardings["head"]["kernel"].spec == P("fsdp", None)
    assert reports == ["head/kernel: dimension 1 of 7 stays whole, tensor=2 does not divide it"]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (RULES[:1], r"lm/norm \[4\]: no sharding rule"),
        ((*RULES, ("head", ())), "head/kernel.*all match"),
        ((("kernel", ("data", "fsdp", "tensor")), ("norm", ())), "names 3 axes, but head/kernel has shape"),
        ((("kernel", ("model",)), ("norm", ())), "no mesh axis 'model'"),
    ],
)
def test_each_leaf_needs_exactly_one_fitting_rule(rules, words):
    with pytest.raises(UserError, match=words):
        param_shardings(rules, PARAMS, MESH)


def test_optimizer_state_follows_its_parameters():
    shardings, _ = param_shardings(RULES, PARAMS, MESH)
    small = jax.ShapeDtypeStruct((4,), "float32")
    tree = {"adam": ({"lm": PARAMS["lm"]}, small), "row": {"head": {"kernel": small}}}
    placed = follow(tree, PARAMS, shardings, MESH)
    assert placed["adam"][0]["lm"] == shardings["lm"]
    assert placed["adam"][1].spec == P()
    assert placed["row"]["head"]["kernel"].spec == P()  # a factored moment has not the parameter's shape


def test_a_batch_goes_to_the_devices_and_back():
    sharding = batch_sharding(build_mesh())
    batch = {"tokens": np.arange(12).reshape(4, 3)}
    rows = local_rows(sharding, 4)
    np.testing.assert_array_equal(rows, np.arange(4))
    placed = to_global(batch, sharding, 4, rows)
    np.testing.assert_array_equal(from_global(placed["tokens"]), batch["tokens"])


def test_batch_that_does_not_divide_names_the_nearest():
    sharding = NamedSharding(AbstractMesh((2, 2, 2, 1), meshes.AXES), P(meshes.BATCH_AXES))
    with pytest.raises(UserError, match=r"10 rows do not divide .* over 4 groups of devices; nearest: 8"):
        local_rows(sharding, 10)


def test_initialize_needs_all_three(monkeypatch):
    initialize()  # nothing asked for: nothing done
    with pytest.raises(UserError, match="also give the process count"):
        initialize("localhost:1234")
    monkeypatch.setenv("UNITOK_PROCESSES", "two")
    with pytest.raises(UserError, match="UNITOK_PROCESSES: expected a number, got 'two'"):
        initialize("localhost:1234", process=0)


TWO_PROCESSES = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from unitok_jax.parallel.distributed import from_global, initialize, local_rows, to_global
from unitok_jax.parallel.mesh import MeshSettings, batch_sharding, build_mesh
import numpy as np
initialize()
for data, tensor in ((4, 1), (2, 2), (1, 4)):
    sharding = batch_sharding(build_mesh(MeshSettings(data=data, tensor=tensor)))
    rows = local_rows(sharding, 4)
    assert len(rows) == (4 if tensor == 4 else 2), rows  # a tensor axis across processes: both read all rows
    placed = to_global(np.arange(4)[rows, None] * 1.0, sharding, 4, rows)
    np.testing.assert_array_equal(from_global(placed)[:, 0], rows)
    assert float(jax.jit(lambda x: (x[:, 0] ** 2).sum())(placed)) == 14.0
"""


def test_two_processes_read_their_rows(free_port):
    env = {**os.environ, "UNITOK_COORDINATOR": f"localhost:{free_port}", "UNITOK_PROCESSES": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES],
            env={**env, "UNITOK_PROCESS": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors[-2000:]
