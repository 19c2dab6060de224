"""Whole runs of the toy: what is written, going on after a crash, other meshes, mistakes."""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import training_toy as toy
from kills import run_killed

from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.training.loop import train
from unitok_jax.training.metrics import read_metrics

RUN_TOY = Path(__file__).parent / "run_toy.py"
FULL = {"ema": {"decay": 0.9}, "model": {"noise": 0.5}, "eval_every": 4, "sample_every": 1, "steps": 16}


def rows(workdir) -> list[dict]:
    """The metrics that a run must repeat to the last bit."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(workdir)]


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    """A run from start to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "build", lambda name, model: toy.ToySystem(model))
        workdir = tmp_path_factory.mktemp("unkilled")
        return workdir, train(toy.config(**FULL), workdir)


def command(workdir, devices=1, changes=None, pace="") -> list[str]:
    return [sys.executable, str(RUN_TOY), str(workdir), str(devices), json.dumps(changes or FULL), *pace.split()]


def test_a_run_learns_and_tells(unkilled, capsys):
    workdir, state = unkilled
    read = read_metrics(workdir)
    trained = [row for row in read if "loss/fit" in row]
    assert [row["step"] for row in trained] == list(range(2, 17, 2))
    assert trained[-1]["loss/fit"] < 0.5 * trained[0]["loss/fit"]
    assert trained[0]["tokens"] == 2 * 8 * 4
    assert {"time/tokens_per_s", "time/input_wait", "unused/positions", "bad_examples"} <= set(trained[0])
    assert [row["step"] for row in read if "validation/same/error" in row] == [4, 8, 12, 16]
    assert int(state.step) == 16
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["12", "16"]
    assert len(list((workdir / "tensorboard").iterdir())) == 4


def test_a_run_goes_on_after_a_crash(unkilled, tmp_path, capsys):
    """The crash comes between two checkpoints, while the one before may still be being written."""

    def crash(params, step):
        if step == 10:
            raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        train(toy.config(**FULL), tmp_path, samples=crash)
    state = train(toy.config(**FULL), tmp_path)
    assert "goes on from step 8 of 16" in capsys.readouterr().err
    workdir, whole = unkilled
    same(state, whole)
    assert rows(tmp_path) == rows(workdir)


@pytest.mark.parametrize(
    "moments",
    [
        ("saved", "restore"),
        pytest.param(("start-up", "compile", "saved", "restore", "save", "restore", "steps"), marks=pytest.mark.slow),
    ],
)
def test_kill_at_any_moment(unkilled, tmp_path, moments):
    """kill -9, again and again, until a run gets to its end."""
    kills = run_killed(command(tmp_path, pace="0.03"), tmp_path, moments, seed=len(moments))
    assert len(kills) >= len(moments) - 1, "the last one may come after the end"
    assert rows(tmp_path) == rows(unkilled[0])
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


@pytest.mark.exhaustive
def test_kill_of_the_demos_tokenizer(tmp_path):
    """The whole command with a real recipe, at a smaller size: its figures too are those of an unkilled run."""
    small = {"model.vqgan.channels": 8, "model.vqgan.z_channels": 8, "model.vqgan.groups": 4, "data.batch_size": 4}
    small |= {"steps": 60, "log_every": 5, "checkpoint_every": 5, "eval_every": 0}
    options = [f"--config.{name}={value}" for name, value in small.items()]
    recipe = ["--config", str(Path(__file__).parents[2] / "configs" / "demo" / "tokenizer.py")]
    unitok = [sys.executable, "-m", "unitok_jax.cli", "train", *recipe, *options, "--workdir"]
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_killed([*unitok, str(whole)], whole, (), seed=0, env=env) == []
    moments = ("compile", "saved", "restore", "save")
    assert run_killed([*unitok, str(killed)], killed, moments, seed=5, env=env) == list(moments)
    assert rows(killed) == rows(whole)
    assert rows(whole)[-1]["step"] == 60


def test_several_devices_give_the_same_run(unkilled, tmp_path):
    """Eight devices, then on from the same checkpoints on another mesh of them: losses agree to 1e-5."""
    for steps, mesh in ((12, {"data": 2, "fsdp": 2, "tensor": 2}), (16, {"data": 1, "fsdp": -1})):
        done = subprocess.run(
            command(tmp_path, 8, FULL | {"mesh": mesh, "steps": steps}), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    got, expected = (np.array([r["loss/fit"] for r in rows(w) if "loss/fit" in r]) for w in (tmp_path, unkilled[0]))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_nothing_compiles_and_nothing_leaves_the_device_between_logs(tmp_path, monkeypatch, caplog):
    """After the first steps; numbers are fetched at the two logs only."""
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda tree, get=jax.device_get: fetched.append(1) or get(tree))

    def compiled():
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    def watch(params, step):
        if step == 2:
            assert compiled(), "the log tells of compiles"
            jax.config.update("jax_transfer_guard", "disallow")
            caplog.clear()
        if step == 7:
            jax.config.update("jax_transfer_guard", "allow")
            assert not compiled()

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        config = toy.config(steps=8, log_every=4, checkpoint_every=8, sample_every=1)
        train(config, tmp_path, samples=watch)
    assert len(fetched) == 2


def test_other_config_in_the_workdir(unkilled):
    with pytest.raises(UserError, match=r"holds a run with config.optimizer.lr = 0.05, not 0.1: take another"):
        train(toy.config(**FULL, optimizer={"lr": 0.1}), unkilled[0])
    with pytest.raises(UserError, match=r"config.ema = \{.decay.: 0.9\}, not unset"):
        train(toy.config(**{k: v for k, v in FULL.items() if k != "ema"}), unkilled[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stepz": 3}, r"config.stepz: no such key. Did you mean steps"),
        ({"steps": "many"}, r"config.steps: expected int, got 'many'"),
        ({"log_every": 0}, r"config.log_every: expected 1 or more"),
        ({"data": {"batch_size": 8, "trian": []}}, r"config.data.trian: no such key. Did you mean train"),
        ({"data": {"train": []}}, r"config.data.batch_size: missing"),
        ({"stage": "fitt"}, r"no stage 'fitt'. Did you mean fit"),
        ({"mesh": {"tensor": 3}}, r"config.mesh.*nearest: data=1"),
        ({"fresh": ["net"]}, r"part 'fixed' is in neither of init_from and fresh"),
        ({"fresh": ["net", "fixed", "old"]}, r"no part 'old'"),
        ({"compute_dtype": "float16"}, r"expected float32 or bfloat16"),
        ({"model": {"bad_from": 0}, "max_nonfinite": 3}, r"step 4: .*phase fit not finite in 4 steps in a row"),
        (
            {"fresh": ["fixed"], "init_from": {"net": "nowhere"}},
            r"config.init_from.net: nowhere: no such file or folder",
        ),
        (
            {"fresh": ["fixed"], "init_from": {"net": "ckpts/Lumina"}},
            r"init_from.net: ckpts/Lumina: no such file.*Lumina@main",
        ),
        (
            {"fresh": ["fixed"], "init_from": {"net": "./x/y.pth"}},
            r"init_from.net: ./x/y.pth: no such file or folder$",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(changes, words, tmp_path):
    with pytest.raises(UserError, match=words) as told:
        train(toy.config(**changes), tmp_path)
    assert "\n" not in str(told.value)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: cannot write \(Not a directory\)"):
        train(toy.config(), tmp_path / "file" / "run")


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, unkilled, capsys):
    """Files may not grow once the first checkpoint is done: what comes next cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(params, step):
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        time.sleep(0.05)

    try:
        with pytest.raises(UserError, match="cannot write") as told:
            train(toy.config(**FULL), tmp_path, samples=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    same(train(toy.config(**FULL), tmp_path), unkilled[1])
    assert rows(tmp_path) == rows(unkilled[0])
    assert os.listdir(tmp_path / "checkpoints")
