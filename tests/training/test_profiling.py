"""The profiler hook and the MFU of a run."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_toy as toy

from unitok_jax.errors import UserError
from unitok_jax.quantizers import nearest
from unitok_jax.training.loop import train
from unitok_jax.training.profiling import ProfileSteps, read_steps
from unitok_jax.training.progress import Progress


def test_the_steps_asked_for_are_traced(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    train(toy.config(steps=4), tmp_path, profile=ProfileSteps(2, 2))
    assert calls == [str(tmp_path / "profile"), "stop"]
    calls.clear()
    train(toy.config(steps=6), tmp_path, profile=ProfileSteps(6, 3))
    assert calls == [str(tmp_path / "profile"), "stop"], "a run that ends before closes its trace"


def test_which_steps():
    assert read_steps("10") == ProfileSteps(10, 3)
    assert read_steps("10:5") == ProfileSteps(10, 5)
    for wrong in ("0", "a", "1:2:3", "5:0", ""):
        with pytest.raises(UserError, match="expected FIRST or FIRST:COUNT"):
            read_steps(wrong)


def test_mfu_is_the_ideal_share_of_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    progress = Progress("run", 10, ["fit"], ideal=0.3)
    now[0] += 2.0
    assert progress.row(4, {})["time/mfu"] == pytest.approx(0.3 / 0.5)
    assert "time/mfu" not in Progress("run", 10, ["fit"]).row(1, {})


def test_a_collapsing_codebook_is_told_while_it_happens():
    counts = np.array([[0, 90, 0, 0] * 25, [1] * 100])
    said = io.StringIO()
    progress = Progress("run", 10, ["fit"], said)
    for name, seen in (("codebook/pix", counts), ("codebook/sem", counts[1:])):
        metrics = nearest.code_metrics(jnp.asarray(seen), name)
        row = {key: float(metric.compute()) for key, metric in metrics.items()}
        progress.tell(1, {"loss/fit": 1.0, **progress.row(1, {}), **row})
    lines = said.getvalue().splitlines()
    assert "codebook/pix 25 codes" in lines[0] and "codebook/sem 100 codes" in lines[-1]
    assert not any("collapsing" in line for line in lines)
    counts[0] = 90 * (np.arange(100) == 3)
    row = {key: float(m.compute()) for key, m in nearest.code_metrics(jnp.asarray(counts), "codebook/pix").items()}
    progress.tell(2, {"loss/fit": 1.0, **progress.row(2, {}), **row})
    assert "WARNING: codebook/pix is collapsing: 1.0 codes in effect, 1.1%" in said.getvalue()
