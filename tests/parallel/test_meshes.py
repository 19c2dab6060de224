"""On any mesh of eight devices a train step and a decode are a single device's, for every system.

A train step's losses, gradients, parameters, moving average and codebooks, on codes with margins. A system joins by a
line in `CASES`, its language model by one in `DRAWN`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from code_margins import MARGIN

FOLDER = Path(__file__).parent
MESHES = ("8,1,1,1", "1,8,1,1", "2,2,2,1", "1,2,2,2", "2,1,1,4", "1,1,8,1")  # data, fsdp, tensor, context
# The tiny recipes' LPIPS of four channels normalises features that are all but zero, which amplifies float32's rounding
# by 700; a wider one does not.
WIDE = ("--config.stage_options.vgg_widths=(16,16,16,16,16)",)
AT_ONCE = ("--config.stage_options.adversary.start=0", *WIDE)
CASES = {  # what: recipe, overrides
    "unitoken_lm": ("configs/unitoken/base_stage2.py:tiny,packed", ()),
    "unitoken_anyres": ("configs/unitoken/anyres_stage2.py:tiny", ()),
    "unitoken_vqgan": ("configs/unitoken/vqgan.py:tiny", AT_ONCE),
    "dualtoken_tokenizer": ("configs/dualtoken/tokenizer.py:tiny", AT_ONCE),
    "dualtoken_lm": ("configs/dualtoken/lm.py:tiny", ()),
    "tar_ta_tok": ("configs/tar/ta_tok.py:tiny", ()),
    "tar_lm": ("configs/tar/pretrain.py:tiny", ()),
    "tar_ar": ("configs/tar/ar.py:tiny", ()),
    "uniwetok_tokenizer": ("configs/uniwetok/tokenizer.py:tiny", ()),
    "uniwetok_lm": ("configs/uniwetok/lm.py:tiny", ()),
}
# What every change must pass; UniWeTok's tokenizer and other meshes are exhaustive: see docs/scaling.md.
PICTURES = {
    "unitoken_vqgan",
    "dualtoken_tokenizer",
    "tar_ta_tok",
    "tar_ar",
    "uniwetok_tokenizer",
}  # no positions to cut
FAST = {name: "2,2,2,1" for name in CASES if name != "uniwetok_tokenizer"} | {"unitoken_lm": "1,2,2,2"}
DRAWN = {
    "unitoken": "configs/unitoken/base_stage2.py:tiny",
    "dualtoken": "configs/dualtoken/lm.py:tiny",
    "tar": "configs/tar/pretrain.py:tiny",
    "uniwetok": "configs/uniwetok/lm.py:tiny",
}
SENT = ("unitoken/base_stage2.py", "dualtoken/lm.py", "tar/pretrain.py", "uniwetok/lm.py")
BOUNDS = {"loss": 1e-5, "gradient": 1e-4, "state": 1e-4, "params": 1e-4, "ema": 1e-4}


def run(script: str, *words: str) -> Any:
    """What a script prints last; its programs are compiled for 8 devices and run once, so they are not optimised."""
    env = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, str(FOLDER / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: str, meshes: tuple[str, ...]) -> None:
    recipe, overrides = CASES[case]
    result = run("mesh_run.py", recipe, json.dumps(list(overrides)), *meshes)
    assert result["losses"] and result["margin"] > MARGIN
    for mesh, errors in result["errors"].items():
        for name, bound in BOUNDS.items():
            error, where = errors[name]
            assert error <= bound, f"mesh {mesh}: {name} {where} differs by {error:.2e}"


@pytest.mark.slow
@pytest.mark.parametrize("case", FAST)
def test_a_mesh_gives_a_single_devices_numbers(case):
    compare(case, (FAST[case],))


@pytest.mark.slow
def test_gathered_positions_stay_where_their_rows_are():
    """Rows over `data`, positions over `context`, ids over `tensor`: every device has an eighth of the head's work."""
    for mesh, (error, share) in run("loss_run.py", "2,1,1,4", "2,2,2,1", "1,1,2,4").items():
        assert error < 1e-5, f"mesh {mesh}: {error:.2e}"
        assert share < 0.25, f"mesh {mesh}: every device computes {share:.2f} of it all"


@pytest.mark.slow
def test_convolutions_have_a_single_devices_gradients():
    for mesh, error in run("convolution_run.py", "2,2,2,1", "1,2,2,2").items():
        assert error < 1e-4, f"mesh {mesh}: {error:.2e}"


@pytest.mark.slow
def test_full_size_steps_gather_kernels_and_leave_rows_where_they_are():
    """Parameters gathered twice and their gradients summed come to 4 times their size at the most; were activations
    summed instead, these recipes would send 12 to 45 times it, as they once did."""
    for recipe, share in run("sent_run.py", *SENT).items():
        assert 0.5 < share < 4, f"{recipe}: a device sends {share:.1f} times the parameters' bytes"


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES)
def test_any_mesh_gives_a_single_devices_numbers(case):
    compare(case, tuple(mesh for mesh in MESHES if case not in PICTURES or mesh != "1,2,2,2"))


@pytest.mark.slow
@pytest.mark.parametrize("system", DRAWN)
def test_a_sharded_decode_writes_what_a_single_device_writes(system):
    mesh = "data=2+fsdp=2+tensor=2"
    assert run("decode_run.py", DRAWN[system], mesh) == {mesh: {"captions": True, "ids": True}}


@pytest.mark.exhaustive
@pytest.mark.parametrize("system", DRAWN)
def test_so_does_one_on_any_mesh(system):
    meshes = ("default", "data=8", "tensor=8", "data=4+tensor=2", "data=2+fsdp=2+tensor=2")
    assert run("decode_run.py", DRAWN[system], *meshes) == {mesh: {"captions": True, "ids": True} for mesh in meshes}
