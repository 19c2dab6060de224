"""Runs of several processes: the same numbers as one, stopped and killed and gone on with by another number of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training_toy as toy
from ports import free_port

from unitok_jax import cli
from unitok_jax.training.metrics import read_metrics

pytestmark = pytest.mark.several_processes

RUN_TOY = Path(__file__).parent / "run_toy.py"
RUN = {"ema": {"decay": 0.9}, "model": {"noise": 0.5}, "sample_every": 1, "steps": 12, "log_every": 1}
MESHES = ({"data": 4}, {"data": 1, "fsdp": 4}, {"data": 2, "tensor": 2})


def start(workdir, count: int, devices: int, pace: str = "", heartbeat: int = 100, **changes) -> list[subprocess.Popen]:
    """The processes of a run, `devices` in each."""
    arguments = [str(RUN_TOY), str(workdir), str(devices), json.dumps(RUN | changes), *pace.split()]
    shared = {"UNITOK_COORDINATOR": f"localhost:{free_port()}", "UNITOK_PROCESSES": str(count)}
    env = dict(os.environ, UNITOK_HEARTBEAT=str(heartbeat), UNITOK_START_TIMEOUT="400", **(shared if count > 1 else {}))
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=env | {"UNITOK_PROCESS": str(i)}, stderr=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    told = [process.communicate(timeout=900)[1][-3000:] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def run(workdir, count: int, devices: int, **changes) -> None:
    for code, text in ends(start(workdir, count, devices, **changes)):
        assert code == 0, text


def losses(workdir) -> dict[int, float]:
    return {row["step"]: row["loss/fit"] for row in read_metrics(workdir) if "loss/fit" in row}


def assert_as(whole: dict[int, float], workdir) -> None:
    got = losses(workdir)
    assert list(got) == list(whole)
    np.testing.assert_allclose(list(got.values()), list(whole.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[int, float]:
    """The losses of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    run(workdir, 1, 1)
    return losses(workdir)


@pytest.mark.parametrize(("count", "mesh"), [(2, MESHES[0]), (2, MESHES[2]), (4, MESHES[1]), (4, MESHES[2])])
def test_the_losses_do_not_depend_on_the_processes(count, mesh, alone, tmp_path):
    run(tmp_path, count, 4 // count, mesh=mesh)
    assert_as(alone, tmp_path)


def test_a_notice_to_one_process_saves_and_stops_all(alone, tmp_path):
    processes = start(tmp_path, 2, 2, pace="0.3", mesh=MESHES[1], checkpoint_every=100)
    next(line for line in processes[0].stderr if "step 3/" in line)
    processes[1].send_signal(signal.SIGTERM)
    for code, text in ends(processes):
        assert code == cli.PREEMPTED, text
        assert "told to stop" in text
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert 3 <= saved < 12
    run(tmp_path, 1, 4, mesh=MESHES[2], checkpoint_every=100)
    assert_as(alone, tmp_path)


def test_too_many_bad_examples_stop_all_processes(tmp_path):
    """Every bad example lies among the rows of one process; all end by themselves with the same line."""
    records = [{"text": ""} if i % 8 >= 4 and i % 3 else {"text": "1 2 3 4"} for i in range(400)]
    data = toy.config()["data"] | {"validation": {"v": [{"kind": "memory", "task": "text", "records": records}]}}
    for code, text in ends(start(tmp_path, 2, 2, mesh=MESHES[0], steps=2, eval_every=2, data=data)):
        assert code == 1, text
        assert "133 of 400 examples are bad (133 missing text), more than max_bad_share=0.1" in text


def test_kill_of_one_process_in_mid_save_loses_nothing(tmp_path):
    """A state of 100 MB, so that saving takes a while; the process that is left ends by itself."""
    large = {"model": {"width": 2_000_000}, "checkpoint_every": 3, "ema": None}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, 1, 1, **large)
    processes = start(killed, 2, 2, heartbeat=30, mesh=MESHES[1], **large)
    checkpoints = killed / "checkpoints"
    deadline = time.monotonic() + 600
    while not ((checkpoints / "3").exists() and list(checkpoints.glob("6.*tmp*"))):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.001)
    processes[1].send_signal(signal.SIGKILL)
    (survivor, text), (code, _) = ends(processes)
    assert code == -signal.SIGKILL
    assert survivor not in (0, cli.PREEMPTED), text
    assert not (checkpoints / "9").exists(), "killed too late to show anything"
    run(killed, 4, 1, mesh=MESHES[2], **large)
    assert_as(losses(whole), killed)
    assert not list(checkpoints.glob("*tmp*"))
