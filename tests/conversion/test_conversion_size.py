"""Checkpoints of gigabytes are imported and exported within the memory of a shard, a layer and a fixed rest.

``UNITOK_SIZE_GB`` sets the size of the published one (default 5); three times as much disk is used and freed again.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GIGABYTES = float(os.environ.get("UNITOK_SIZE_GB", "5"))
RUN = Path(__file__).with_name("size_run.py")


def measure(width, name, folder, *numbers):
    command = [sys.executable, str(RUN), *map(str, (width, name, folder, *numbers))]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(name, told)
    return told


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.exhaustive
def test_a_checkpoint_larger_than_what_may_be_held(home):
    shard = 500_000_000
    told = measure(2048, "there_and_back", home, int(GIGABYTES * 1e9), shard)
    assert told["bytes"] >= GIGABYTES * 1e9
    assert told["largest"] <= shard * 1.01
    allowed = told["largest"] + told["layer"] + 1e9
    for way in ("import", "export"):
        assert told[way]["peak"] <= allowed, f"{way} held {told[way]['peak'] / 1e9:.2f} GB, allowed {allowed / 1e9:.2f}"


@pytest.mark.slow
def test_a_run_is_exported_layer_by_layer(home):
    """Training writes its stacks of layers so that none has to be read whole: here sixteen layers of 67 MB.

    Readers' and writers' buffers are of a fixed size that differs between machines (230 MB here); stacks held whole
    would be all sixteen layers.
    """
    trained = measure(1024, "train", home, 16)
    told = measure(1024, "export_run", home, 70_000_000)
    assert told["bytes"] == pytest.approx(trained["bytes"], rel=0.01)
    assert told["export"]["peak"] <= 8 * told["layer"], told
