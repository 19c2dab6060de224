"""On any mesh of eight devices a train step's losses, gradients and codebook updates are a single device's.

A system joins by a line in `CASES`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "mesh_run.py"
MESHES = ("8,1,1,1", "1,8,1,1", "2,2,2,1", "1,2,2,2", "2,1,1,4", "1,1,8,1")  # data, fsdp, tensor, context
FEW = ("2,2,2,1", "1,2,2,2")
CASES = {  # what: recipe, overrides
    "unitoken_lm": ("configs/unitoken/base_stage2.py:tiny,packed", ()),
    "unitoken_anyres": ("configs/unitoken/anyres_stage2.py:tiny", ()),
    "unitoken_vqgan": ("configs/unitoken/vqgan.py:tiny", ()),
    "dualtoken_tokenizer": ("configs/dualtoken/tokenizer.py:tiny", ()),
    "dualtoken_lm": ("configs/dualtoken/lm.py:tiny", ()),
    "tar_ta_tok": ("configs/tar/ta_tok.py:tiny", ()),
    "tar_lm": ("configs/tar/pretrain.py:tiny", ()),
    "tar_ar": ("configs/tar/ar.py:tiny", ()),
    "uniwetok_tokenizer": ("configs/uniwetok/tokenizer.py:tiny", ()),
    "uniwetok_lm": ("configs/uniwetok/lm.py:tiny", ()),
}
FAST = "unitoken_lm"


def compare(case: str, meshes: tuple[str, ...]) -> None:
    recipe, overrides = CASES[case]
    command = [sys.executable, str(RUN), recipe, json.dumps(list(overrides)), *meshes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["losses"]
    for mesh, errors in result["errors"].items():
        for name, bound in (("loss", 1e-5), ("gradient", 1e-4), ("state", 1e-4)):
            error, where = errors[name]
            assert error <= bound, f"mesh {mesh}: {name}{where} differs by {error:.2e}"


@pytest.mark.slow
def test_gathered_positions_stay_where_their_rows_are():
    """Rows over `data`, positions over `context`, ids over `tensor`: every device has an eighth of the head's work."""
    command = [sys.executable, str(RUN.with_name("loss_run.py")), "2,1,1,4", "2,2,2,1", "1,1,2,4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for mesh, (error, share) in json.loads(done.stdout.splitlines()[-1]).items():
        assert error < 1e-5, f"mesh {mesh}: {error:.2e}"
        assert share < 0.25, f"mesh {mesh}: every device computes {share:.2f} of it all"


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES)
def test_any_mesh_gives_a_single_devices_numbers(case):
    compare(case, MESHES)


@pytest.mark.exhaustive
def test_two_meshes_with_all_four_axes():
    compare(FAST, FEW)


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", ["configs/unitoken/base_stage2.py:tiny"])
def test_a_sharded_decode_writes_a_single_devices_ids(recipe):
    script = RUN.with_name("decode_run.py")
    command = [sys.executable, str(script), recipe, "2,2,2,1", "1,1,8,1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"2,2,2,1": True, "1,1,8,1": True}
