"""The harness itself: it fails what it should fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import Below, Case, DoesNotApply, Mutation, drop, swap

from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.safetensors_files import save_file
from unitok_jax.weights.source import InMemory
from unitok_jax.weights.transforms import LINEAR

W = np.arange(6, dtype=np.float32).reshape(2, 3)
TABLE = Table((Rule("fc.weight", "fc/kernel", LINEAR), Rule("fc.bias", "fc/bias")))
PARAMS = {"fc": {"kernel": W.T, "bias": np.ones(2, np.float32)}}


def make(folder, kind="siglip", system="unitoken", **tensors):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"system": system, "kind": kind}))
    save_file(InMemory(tensors), folder / "io.safetensors")
    save_file(InMemory({"net.fc.weight": W, "net.fc.bias": np.ones(2, np.float32)}), folder / "weights.safetensors")
    return folder


def test_every_tensor_is_sorted_or_named(tmp_path):
    case = Case(make(tmp_path / "c", x=W, y=W, **{"odd.z": W, "more": W}))
    case.compare("y", case.input("x"))
    case.skip(r"odd\..*", "optional in the reference")
    assert case.unsorted() == ("more",)
    assert not case.failures
    with pytest.raises(AssertionError, match="matches nothing"):
        case.skip("none", "")


@pytest.mark.parametrize(
    ("expected", "ours", "message"),
    [
        (W, W + 2e-4, "off by"),
        (W, W + 1e-4, None),
        (W, W.T, "shape"),
        (W, np.where(W == 5, np.nan, W), "off by"),
        (np.where(W == 5, -np.inf, W), np.where(W == 5, -np.inf, W), None),
        (np.where(W == 5, -np.inf, W), W, "off by"),
        (W.astype(np.int64), W.astype(np.int64) + (W == 1), "1 of 6 differ"),
        (W.astype(np.int64), W.astype(np.int32), None),
    ],
)
def test_comparisons(tmp_path, expected, ours, message):
    case = Case(make(tmp_path / "c", y=expected))
    case.compare("y", ours)
    assert (message in case.failures[0]) if message else not case.failures


def test_comparison_where(tmp_path):
    case = Case(make(tmp_path / "c", y=W))
    case.compare("y", np.where(W == 5, 9, W), where=W != 5)
    assert not case.failures


def test_weights_come_through_the_rules_and_mutations(tmp_path):
    folder = make(tmp_path / "c", y=W)
    loaded = Case(folder).params(TABLE, PARAMS, "net.")
    np.testing.assert_array_equal(loaded["fc"]["kernel"], W.T)
    wrong = Case(folder, Mutation("no bias", params=drop("bias$"))).params(TABLE, PARAMS, "net.")
    assert not wrong["fc"]["bias"].any()
    assert Case(folder, Mutation("settings", config=lambda config: config * 10)).settings(1e-6) == pytest.approx(1e-5)
    assert list(Below(InMemory({"a.b": W, "c": W}), "a.").keys()) == ["b"]


def test_swapped_leaves():
    leaves = {"a/norm1/scale": 1, "a/norm2/scale": 2, "b": 3}
    assert swap("norm1", "norm2")(leaves) == {"a/norm1/scale": 2, "a/norm2/scale": 1, "b": 3}
    with pytest.raises(DoesNotApply, match="no parameter matches"):
        drop("bias")(leaves)


def test_gradients_are_compared_by_the_references_names(tmp_path):
    tensors = {"gradnorm.fc.weight": np.float32(np.linalg.norm(W)), "grad.fc.bias": np.ones(2, np.float32)}
    case = Case(make(tmp_path / "c", **{k: np.asarray(v) for k, v in tensors.items()}))
    case.compare_gradients(TABLE, PARAMS)
    assert case.compared == set(tensors)
    assert not case.failures


def test_command_line(tmp_path):
    """Several folders; an unknown kind fails, and so does a case whose tensors its handler does not find."""
    make(tmp_path / "one" / "unitoken" / "strange", kind="never heard of", y=W)
    make(tmp_path / "two" / "tar" / "later", kind="sana", system="tar", y=W)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"{Path(__file__).with_name('test_goldens.py')}::test_golden",
    ]
    folders = [f"--goldens={tmp_path / name}" for name in ("one", "two")]
    run = subprocess.run([*command, *folders], capture_output=True, text=True)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "no handler for kind 'never heard of' of unitoken" in run.stdout
    for line in ("unitoken/strange", "tar/later"):
        assert line in run.stdout.split("tensors compared / total")[1]
    assert "2 cases: 2 failed" in run.stdout
