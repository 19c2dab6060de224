"""`unitok_jax.load`: a run, an export, a hub id."""

import subprocess
import sys
import types

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from tiny_release import MODEL, make_run

import unitok_jax
from unitok_jax.conversion.exporting import export_checkpoint
from unitok_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load") / "run"
    folder.mkdir()
    make_run(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def theirs(run):
    """The checkpoints that it is exported to."""
    folder = run.parent / "theirs"
    export_checkpoint(str(run), folder, form="upstream")
    return str(folder), str(folder / "tokenizer" / "vqgan.ckpt")


def test_the_package_itself_is_light():
    probe = "import sys, unitok_jax; sys.exit(bool({'jax', 'numpy', 'etils'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.slow
def test_what_a_run_encodes_its_export_encodes(run, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    model = unitok_jax.load(str(run))
    codes = model.encode(IMAGES, codes_alone=True).codes
    again = unitok_jax.load(*theirs, system="unitoken")
    np.testing.assert_array_equal(again.encode(IMAGES, codes_alone=True).codes, codes)
    np.testing.assert_array_equal(again.decode(codes.reshape(2, 32, 32)), model.reconstruct(IMAGES))
    kept = list((tmp_path / "home" / "unitok_jax").iterdir())
    before = kept[0].stat().st_mtime_ns
    unitok_jax.load(*theirs, system="unitoken")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "home" / "unitok_jax").iterdir()] == [before]


def test_a_branch_is_read_at_the_commit_that_it_points_at(theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    asked = []

    def info(self, repo, revision):
        return types.SimpleNamespace(sha=COMMIT, siblings=[types.SimpleNamespace(rfilename="model.safetensors")])

    def download(repo, revision, **how):
        asked.append((repo, revision))
        return theirs[0]

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    unitok_jax.load("someone/model", system="unitoken", revision="v2")
    assert asked == [("someone/model", COMMIT)] * 2


def test_what_cannot_be_loaded_is_told(run, tmp_path):
    for place, how, message in (
        (str(run), {"system": "tar"}, "holds a unitoken, not a tar"),
        (str(tmp_path), {}, "say whose they are: system="),
        (str(tmp_path / "gone"), {"system": "unitoken"}, "no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            unitok_jax.load(place, **how)
