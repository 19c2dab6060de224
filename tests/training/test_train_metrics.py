"""Metric files: parts, cuts and torn lines, on disk and in a bucket that lies in memory."""

import uuid

import jax.numpy as jnp
import memory_bucket
import pytest
from clu import metrics
from etils import epath
from tensorboardX.proto.event_pb2 import Event

from unitok_jax.errors import UserError
from unitok_jax.training.config import claim_workdir, first_difference
from unitok_jax.training.metrics import Largest, MetricWriter, Sum, Window, read_metrics


@pytest.fixture(params=["disk", "bucket"])
def workdir(request, tmp_path, monkeypatch):
    """A folder, and a ``gs://`` path whose files fsspec keeps in memory."""
    if request.param == "disk":
        return epath.Path(tmp_path)
    memory_bucket.install(monkeypatch)
    return epath.Path(f"gs://{uuid.uuid4().hex}/run")


def write(workdir, start, steps, closes=()):
    writer = MetricWriter(workdir, start)
    for step in steps:
        writer.write(step, {"loss": step / 2, "bad": float("nan")})
        if step in closes:
            writer.close_part(step)
    return writer


def test_what_follows_the_restored_step_is_cut(workdir):
    write(workdir, 0, range(1, 8), closes=(2, 4, 6)).close_part(7)
    assert [row["step"] for row in read_metrics(workdir)] == [1, 2, 3, 4, 5, 6, 7]
    write(workdir, 4, [5]).close_part(5)
    assert read_metrics(workdir)[-2:] == [{"step": n, "loss": n / 2, "bad": None} for n in (4, 5)]
    names = sorted(path.name for path in (workdir / "metrics").iterdir())
    assert names == ["0000000000.jsonl", "0000000002.jsonl", "0000000004.jsonl"]
    assert len(list((workdir / "tensorboard").iterdir())) == 3


def test_events_hold_the_same_numbers(workdir):
    write(workdir, 0, [1, 2]).close_part(2)
    (path,) = (workdir / "tensorboard").iterdir()
    assert scalars(path.read_bytes()) == [(1, "loss", 0.5), (2, "loss", 1.0)]


def scalars(data: bytes) -> list[tuple[int, str, float]]:
    """The scalars of an event file: records of length, checksum, event, checksum."""
    found = []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + size :]
    return found


def test_a_torn_line_is_left_out(tmp_path):
    write(tmp_path, 0, [1, 2]).close_part(2)
    part = tmp_path / "metrics" / "0000000000.jsonl"
    part.write_text(part.read_text()[:-5])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert read_metrics(tmp_path / "nothing") == []


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path / "run", 0, active=False)
    writer.write(1, {"loss": 1.0})
    writer.close_part(1)
    assert not (tmp_path / "run").exists()


def test_a_window_adds_up_steps():
    window = Window()
    for value in (1.0, 5.0, 3.0):
        average = metrics.Average.from_model_output(jnp.float32(value))
        window.add({"mean": average, "sum": Sum.of(value), "top": Largest(jnp.int32(value))}, {"share": value})
    assert window.flush() == {"mean": 3.0, "sum": 9.0, "top": 5, "share": 3.0}
    window.add({"sum": Sum.of(2.0)})
    assert window.flush() == {"sum": 2.0}


def test_claiming_a_workdir(workdir):
    claim_workdir(workdir, {"steps": 1, "seed": 1})
    claim_workdir(workdir, {"steps": 2, "seed": 1})
    write(workdir, 0, [1]).close_part(1)
    with pytest.raises(UserError, match=r"config.seed = 1, not 2: take another workdir"):
        claim_workdir(workdir, {"steps": 2, "seed": 2})


def test_a_start_that_failed_holds_no_workdir(workdir):
    claim_workdir(workdir, {"seed": 1})
    (workdir / "checkpoints").mkdir()
    claim_workdir(workdir, {"seed": 2})
    (workdir / "params").mkdir()
    (workdir / "params" / "_METADATA").write_text("{}")  # an import
    with pytest.raises(UserError, match=r"config.seed = 2, not 3"):
        claim_workdir(workdir, {"seed": 3})


def test_first_difference():
    old = {"a": {"b": [1, 2]}, "data": {"workers": 1}, "mesh": {"data": 1}, "z": 1}
    assert first_difference(old, {"a": {"b": [1, 2]}, "data": {"workers": 4}, "mesh": {}, "z": 1}) is None
    assert first_difference(old, {**old, "a": {"b": [1, 3]}, "z": 2}) == ("a.b", "[1, 2]", "[1, 3]")
    assert first_difference(old, {"a": old["a"], "data": {}}) == ("z", "1", "unset")
    one, other = ({"train": [{"path": "x"}, {"path": path}]} for path in ("y", "z" * 300))
    assert first_difference(one, other) == ("train[1].path", '"y"', f'"{"z" * 99}...')
