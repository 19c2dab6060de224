"""Each benchmark at a tiny size: it compares what both sides give, times them in turns and writes its table."""

import importlib
import json
import statistics

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

TINY = ("--preset", "tiny", "--rounds", "2", "--cores", "1")
CASES = {
    "train_step": (("--families", "qwen3"), ["qwen3"], {"ours", "torch"}),
    "decode-unitoken": (("--batches", "1", "2"), ["batch 1", "batch 2"], {"ours", "torch"}),
    "decode-tar": (("--system", "tar", "--batches", "2"), ["batch 2"], {"ours", "torch"}),
    "decode-uniwetok": (("--system", "uniwetok", "--batches", "1"), ["P = 1", "P = 4", "P = 16"], {"ours"}),
    "tokenizer": ((), ["VQGAN encode", "VQ-VAE decode", "SigLIP encode"], {"ours", "torch"}),
    "data": (("--config", "configs/demo/tower.py", "--steps", "2"), None, {"ours", "step"}),
}


LONG = ("decode-uniwetok", "data")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.exhaustive if n in LONG else ()) for n in CASES])
def test_a_benchmark_writes_its_table(name, tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.syspath_prepend(str(request.config.rootpath))
    words, rows, sides = CASES[name]
    module = importlib.import_module(f"benchmarks.{name.partition('-')[0]}")
    words = (*words, *TINY, "--out", str(tmp_path))
    assert module.main(list(words)) == 0

    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["command"] == f"python -m benchmarks.{name.partition('-')[0]} {' '.join(words)}"
    assert {"commit", "date", "device", "dtype", "load"} <= set(found) and "jax" in found["versions"]
    assert rows is None or [row["name"] for row in found["rows"]] == rows
    for row in found["rows"]:
        medians = {side: statistics.median(times["seconds"]) for side, times in row["times"].items()}
        assert set(medians) == sides and all(len(t["seconds"]) == 2 for t in row["times"].values())
        for side, ratio in row["ratios"].items():
            assert ratio == pytest.approx(medians[side] / medians["ours"])
    table = (tmp_path / f"{name}.md").read_text().splitlines()
    body = [line for line in table if line.startswith("| ")]
    assert len(body) == 2 + len(found["rows"]) and all(line.count("|") == body[0].count("|") for line in body)
