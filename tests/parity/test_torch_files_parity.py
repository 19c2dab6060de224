"""Torch reads the files that we write without unpickling, and we read what torch writes, in both of its formats."""

import argparse

import ml_dtypes
import numpy as np
import pytest

from unitok_jax.weights.source import InMemory
from unitok_jax.weights.torch_files import TorchFile
from unitok_jax.weights.torch_writer import save_torch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


class EasyDict(dict):
    """A config class saved beside the weights."""


@pytest.mark.parametrize("entry", [None, "state_dict"])
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_ours(tmp_path, entry, mmap):
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "a.bias": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "steps": np.array(3, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "mask": np.array([True, False]),
    }
    save_torch(InMemory(tensors), tmp_path / "x.pt", entry)
    loaded = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
    loaded = loaded[entry] if entry else loaded
    assert list(loaded) == list(tensors)
    for key, value in tensors.items():
        assert str(loaded[key].dtype).removeprefix("torch.") == value.dtype.name
        np.testing.assert_array_equal(loaded[key].double().numpy(), value.astype(np.float64))


@pytest.mark.parametrize("zipped", [True, False])
def test_we_read_torchs(tmp_path, zipped):
    layer, table = torch.nn.Linear(3, 4), torch.arange(24.0).reshape(4, 6)
    tensors = {
        "parameter": layer.weight,
        "transposed": table.t(),
        "view": table[1:, 2:4],
        "half": table.bfloat16(),
        "float8": table.to(torch.float8_e4m3fn),
        "unsigned": torch.tensor([1, 2], dtype=torch.uint16),
        "scalar": torch.tensor(2.5),
    }
    content = {
        "args": EasyDict(rate=1),
        "options": argparse.Namespace(rate=np.float64(2.0)),
        "model": {**tensors, "inner": {"scalar": tensors["scalar"]}, "epoch": 3},
        "optimizer": torch.optim.Adam(layer.parameters()).state_dict(),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": table.shape,
        "array": np.arange(3),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    source = TorchFile(tmp_path / "x.pth")
    assert set(source.keys()) == {*tensors, "inner.scalar"}
    for key, value in tensors.items():
        assert source.dtype(key).name == str(value.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(source.read(key).astype(np.float64), value.detach().double().numpy())
