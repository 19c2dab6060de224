"""A run whose workdir is a bucket in memory: files through fsspec, arrays through TensorStore's own client."""

import uuid

import jax
import memory_bucket
import numpy as np
import pytest
import training_toy as toy
from etils import epath
from orbax.checkpoint._src.path import gcs_utils

from unitok_jax.errors import UserError
from unitok_jax.training.checkpoints import find_step, load_parts
from unitok_jax.training.config import read_config
from unitok_jax.training.loop import train
from unitok_jax.training.metrics import read_metrics
from unitok_jax.training.setup import prepare
from unitok_jax.training.workdir import read_workdir


@pytest.fixture
def bucket(monkeypatch):
    memory_bucket.install(monkeypatch)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)  # asks Google's own client
    with memory_bucket.gcs_server(monkeypatch):
        yield f"gs://{uuid.uuid4().hex}"


def rows(workdir):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(workdir)]


def test_a_run_in_a_bucket_is_saved_and_gone_on_with(bucket, tmp_path):
    recipe, run = toy.config(ema={"decay": 0.9}, steps=8, checkpoint_every=2), f"{bucket}/runs/toy"
    train(recipe | {"steps": 4}, run)
    assert find_step(run).name == "4"
    state = train(recipe, run)
    whole = train(recipe, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert rows(run) == rows(tmp_path)
    assert sorted(path.name for path in (epath.Path(run) / "checkpoints").iterdir()) == ["6", "8"]
    assert read_workdir(f"{run}/checkpoints/8").steps == 8
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), whole.params["net"]
    )
    jax.tree.map(np.testing.assert_array_equal, load_parts(run, {"net": shapes}), {"net": whole.ema["net"]})
    first = prepare(read_config(toy.config(fresh=["fixed"], init_from={"net": run}))[0]).first_state()
    jax.tree.map(np.testing.assert_array_equal, first.params["net"], whole.ema["net"])


def test_a_published_checkpoint_in_a_bucket_is_told(bucket):
    recipe = toy.config(fresh=["fixed"], init_from={"net": f"{bucket}/ckpts/model.safetensors"})
    with pytest.raises(UserError, match=r"config.init_from.net: gs://.*no run and no import there.*copy it here"):
        prepare(read_config(recipe)[0]).first_state()
