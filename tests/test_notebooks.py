"""The notebooks run top to bottom, at tiny size and without a network, and say what they are to say."""

import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.slow  # all of it runs with the proofs, which bring the extra notebooks
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
TOLD = {
    "quickstart": [r"a handwritten red zero", r"\(8, 16, 16, 3\)", r"codes of one picture: \[\d+(, \d+){15}\]"],
    "released_weights": [r"says: ", r"answers: ", r"draws: \(1, 64, 64, 3\)"],
    "your_data_tpu": [r"40 records", r"PSNR on pictures never seen: \d+\.\d dB"],
    "export_to_pytorch": [r"ChameleonForConditionalGeneration\tlogits\t\d", r"\(1, 16, 704\)", r"digits, task caption"],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_installs_first_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "%pip install" in code[0].source and "find_spec" in code[0].source
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert path.stem in TOLD


def test_notebooks_are_fetched_from_one_place():
    firsts = [next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code") for path in NOTEBOOKS]
    assert len({re.sub(r"install -q .*", "", first.source) for first in firsts}) == 1
    assert re.search(r'^REPOSITORY = "https://\S+/unitok_jax\.git"$', firsts[0].source, re.M)


def run(path: Path, folder: Path, monkeypatch, **environment: str) -> str:
    """Everything that a notebook printed, run in a folder that has the recipes."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (folder / "configs").symlink_to(ROOT / "configs")
    given = {"UNITOK_TINY": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    for name, value in {**given, **environment}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return "".join(output.get("text", "") for output in outputs)


def check(name: str, folder: Path, monkeypatch, **environment: str) -> None:
    told = run(ROOT / "colab" / f"{name}.ipynb", folder, monkeypatch, **environment)
    for pattern in TOLD[name]:
        assert re.search(pattern, told), f"{pattern} not in:\n{told}"


def test_the_quickstart_runs(tmp_path, monkeypatch):
    # Compiled as everyday commands are, not as tests: `make demo-short` then finds the same programs in the cache.
    for name in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION"):
        monkeypatch.delenv(name)
    check("quickstart", tmp_path, monkeypatch)


def test_training_on_data_of_ones_own_runs(tmp_path, monkeypatch):
    check("your_data_tpu", tmp_path, monkeypatch)


def test_released_weights_run_on_a_tiny_release(tmp_path, monkeypatch):
    sys.path.append(str(ROOT / "tests" / "conversion"))
    from tiny_release import make_run

    from unitok_jax.conversion.exporting import export_checkpoint

    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run")
    export_checkpoint(str(tmp_path / "run"), tmp_path / "theirs", form="upstream")
    checkpoints = f"{tmp_path / 'theirs'} {tmp_path / 'theirs' / 'tokenizer' / 'vqgan.ckpt'}"
    picture = str(ROOT / "docs" / "images" / "digit_scenes.png")
    environment = {"UNITOK_CHECKPOINTS": checkpoints, "UNITOK_VOCABULARY": "", "UNITOK_PICTURE": picture}
    check("released_weights", tmp_path, monkeypatch, **environment)


@pytest.mark.parity
def test_the_export_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    check("export_to_pytorch", tmp_path, monkeypatch)
