"""Checkpoint files: what is written is read back, what is broken or dangerous is refused with one clear line."""

import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from unitok_jax.errors import UserError
from unitok_jax.weights.artefacts import load_published
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.safetensors_files import INDEX, SafetensorsFile, save_file, save_folder
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.torch_files import TorchFile
from unitok_jax.weights.torch_writer import save_torch
from unitok_jax.weights.transforms import LINEAR

RNG = np.random.default_rng(0)
TENSORS = {
    "a.weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "a.bias": RNG.normal(size=(5,)).astype(ml_dtypes.bfloat16),
    "steps": np.array(3, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "mask": np.array([True, False]),
    "transposed": RNG.normal(size=(3, 4)).T,
}


def check(source, tensors=TENSORS):
    assert set(source.keys()) == set(tensors)
    for key, value in tensors.items():
        assert source.shape(key) == value.shape
        assert source.dtype(key) == value.dtype == source.read(key).dtype
        np.testing.assert_array_equal(source.read(key), value)


def test_safetensors_file(tmp_path):
    save_file(InMemory(TENSORS), tmp_path / "x.safetensors")
    check(open_source(tmp_path / "x.safetensors"))
    assert SafetensorsFile(tmp_path / "x.safetensors").metadata == {"format": "pt"}


def test_safetensors_as_the_official_library_has_them(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    plain = {key: value for key, value in TENSORS.items() if value.dtype != ml_dtypes.bfloat16}
    save_file(InMemory(plain), tmp_path / "ours.safetensors")
    for key, value in numpy.load_file(tmp_path / "ours.safetensors").items():
        np.testing.assert_array_equal(value, plain[key])
    numpy.save_file({k: np.array(v, order="C") for k, v in plain.items()}, tmp_path / "theirs.safetensors")
    check(open_source(tmp_path / "theirs.safetensors"), plain)


@pytest.mark.parametrize(("max_shard", "files"), [(10**9, 1), (60, 3)])
def test_safetensors_folder(tmp_path, max_shard, files):
    save_folder(InMemory(TENSORS), tmp_path, max_shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    check(open_source(tmp_path))


def broken(tmp_path, message):
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_and_missing_shards(tmp_path):
    save_folder(InMemory(TENSORS), tmp_path, 60)
    first, *_, last = sorted(tmp_path.glob("*.safetensors"))
    os.truncate(last, last.stat().st_size - 1)
    broken(tmp_path, "cut short")
    os.truncate(last, 20)
    broken(tmp_path, "cut short")
    last.write_bytes(struct.pack("<Q", 4) + b"oops")
    broken(tmp_path, "header is not JSON")
    last.unlink()
    broken(tmp_path, "missing; the index names it")
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"other": first.name}, "metadata": index["metadata"]}))
    broken(tmp_path, "lacks other")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 90_000])
def test_a_broken_index(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    broken(tmp_path, "no index")


@pytest.mark.parametrize(
    "header",
    ["[]", "7", "[" * 90_000, '{"a": 1}', '{"a": {"dtype": "F32", "shape": [1]}}',
     '{"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}',
     '{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}',
     '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
     '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
     '{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}'],
)  # fmt: skip
def test_a_broken_header(tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    broken(tmp_path / "x.safetensors", "not a safetensors file|the file is broken")


def test_a_torch_file_that_is_cut_short(tmp_path):
    save_torch(InMemory(TENSORS), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in range(8, len(whole), len(whole) // 7):
        (tmp_path / "x.pt").write_bytes(whole[:length])
        broken(tmp_path / "x.pt", "cut short")
    (tmp_path / "x.pt").write_bytes(whole[200:])  # the zip's directory without its beginning
    broken(tmp_path / "x.pt", "broken")


class Failing(InMemory):
    def read(self, key):
        if key == "mask":
            raise OSError("No space left on device")
        return super().read(key)


@pytest.mark.parametrize("save", [save_file, save_torch])
def test_a_half_written_export_leaves_nothing_and_spoils_nothing(tmp_path, save):
    target = tmp_path / "x.safetensors"
    target.write_text("the one before")
    with pytest.raises(OSError, match="No space"):
        save(Failing(TENSORS), target)
    assert target.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_half_written_sharded_export_has_no_index(tmp_path):
    with pytest.raises(OSError, match="No space"):
        save_folder(Failing(TENSORS), tmp_path, 60)
    assert not (tmp_path / INDEX).exists()


@pytest.mark.parametrize("entry", [None, "state_dict", "ema", "other"])
def test_torch_file(tmp_path, entry):
    save_torch(InMemory(TENSORS), tmp_path / "x.pt", entry)
    check(TorchFile(tmp_path / "x.pt", entry))
    if entry == "other":
        broken(tmp_path / "x.pt", "no state dict at the top or under state_dict or ema or model; it has other")
        with pytest.raises(UserError, match="no entry model; it has other"):
            TorchFile(tmp_path / "x.pt", "model")
    else:
        check(open_source(tmp_path))


def torch_zip(path, pickled, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)


def tensor_pickle(shape, strides, offset=0, size=4, dtype="FloatStorage"):
    """A state dict ``{"w": tensor}`` as torch pickles it, with a view of our choice."""
    sizes, steps = ("".join(f"I{n}\n" for n in numbers) for numbers in (shape, strides))
    storage = f"((Vstorage\nctorch\n{dtype}\nV0\nVcpu\nI{size}\ntQ"
    view = f"I{offset}\n({sizes}t({steps}tI00\nccollections\nOrderedDict\n(tRtR"
    return f"(dVw\nctorch._utils\n_rebuild_tensor_v2\n{storage}{view}s.".encode()


def test_torch_views(tmp_path):
    data = np.arange(6, dtype=np.float32)
    torch_zip(tmp_path / "x.pt", tensor_pickle((2, 2), (1, 2), 1, 6), [data.tobytes()])
    np.testing.assert_array_equal(TorchFile(tmp_path / "x.pt").read("w"), [[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("pickled", "data", "message"),
    [
        (tensor_pickle((2, 3), (3, 1)), 16, "w reaches beyond its data"),
        (tensor_pickle((4,), (1,), offset=1), 16, "w reaches beyond its data"),
        (tensor_pickle((4,), (-1,)), 16, "w reaches beyond its data"),
        (tensor_pickle((4,), (1,)), 12, "cut short"),
        (tensor_pickle((4,), (1,), dtype="Nonsense"), 16, "names a storage"),
        (b"not a pickle", 16, "not a torch checkpoint"),
        (pickle.dumps({"epoch": 3}), 16, "no state dict at the top or under"),
    ],
)
def test_torch_files_that_lie(tmp_path, pickled, data, message):
    torch_zip(tmp_path / "x.pt", pickled, [bytes(data)])
    broken(tmp_path / "x.pt", message)


class Runs:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "args"),
    [(os.system, ("touch {}",)), (eval, ("open('{}', 'w')",)), (getattr, (os, "system"))],
)
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, legacy, function, args):
    if function is getattr:
        args = ("text", "upper")
    trace, file = tmp_path / "ran", tmp_path / "x.pt"
    evil = pickle.dumps({"state_dict": {}, "x": Runs(function, *(arg.format(trace) for arg in args))})
    if legacy:
        file.write_bytes(evil)
    else:
        torch_zip(file, evil)
    broken(file, r"holds code \(.*\), which is never run")
    assert not trace.exists()


class EasyDict(dict):
    """Stands for a config class of somebody's training code."""


def test_objects_saved_beside_the_weights_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(EasyDict, "__module__", "easydict_that_is_not_installed")
    text = tensor_pickle((4,), (1,)).removesuffix(b".")
    args = b"ceasydict_that_is_not_installed\nEasyDict\n(VA\ntR(Vlr\nI3\nu(dVk\nI1\nsb"
    torch_zip(
        tmp_path / "x.pth", b"(dVargs\n" + args + b"sVmodel\n" + text + b"s.", [np.arange(4.0, dtype="f4").tobytes()]
    )
    check(open_source(tmp_path / "x.pth"), {"w": np.arange(4, dtype=np.float32)})


def test_files_that_are_no_checkpoints(tmp_path):
    broken(tmp_path / "absent", "no such file")
    broken(tmp_path, "no checkpoint found")
    (tmp_path / "x.pt").write_text("plain text")
    broken(tmp_path / "x.pt", "neither a safetensors nor a torch file")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme", "")
    broken(tmp_path / "x.pt", "no data.pkl")
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"w": 1}))
    broken(tmp_path / "x.pt", "not one of torch.save")


def test_orbax_folder(tmp_path):
    params = {"lm": {"head": {"kernel": TENSORS["a.weight"]}}, "scale": np.ones(3, np.float32)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
    check(open_source(tmp_path / "params"), {"lm.head.kernel": TENSORS["a.weight"], "scale": np.ones(3, np.float32)})


ARTEFACTS = {
    "model": Table((Rule("w{i}.weight", "lm/w_{i}/kernel", LINEAR), Rule("adapter.weight", "adapter/kernel", LINEAR))),
    "lm": Table((Rule("v{i}.weight", "lm/w_{i}/kernel", LINEAR),)),
}


def test_published_checkpoints_are_recognised(tmp_path):
    weight = TENSORS["a.weight"]
    abstract = {"lm": {"w_0": {"kernel": weight.T}}, "adapter": {"kernel": weight.T}}
    save_file(InMemory({"w0.weight": weight, "adapter.weight": weight}), tmp_path / "all.safetensors")
    save_torch(InMemory({"v0.weight": weight}), tmp_path / "lm.pt")
    for file, parts in (("all.safetensors", ("lm", "adapter")), ("all.safetensors", ("lm",)), ("lm.pt", ("lm",))):
        loaded = load_published(ARTEFACTS, tmp_path / file, {part: abstract[part] for part in parts})
        assert set(loaded) == set(parts)
        np.testing.assert_array_equal(loaded["lm"]["w_0"]["kernel"], weight.T)
    with pytest.raises(UserError, match=r"lm\.pt: its keys \(v0\.weight, \.\.\.\) are none that model has"):
        load_published(ARTEFACTS, tmp_path / "lm.pt", {"adapter": abstract["adapter"]})
    with pytest.raises(UserError, match="no published artefact holds lm and vit together"):
        load_published(ARTEFACTS, tmp_path / "lm.pt", {"lm": abstract["lm"], "vit": {}})
    with pytest.raises(UserError, match=r"lm\.pt: v1\.weight \(4, 3\): missing"):
        load_published(ARTEFACTS, tmp_path / "lm.pt", {"lm": {"w_1": {"kernel": np.zeros((3, 4))}}})
