"""Plans: of a tiny recipe for TPUs that are not there, and what is said where one cannot be made."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from unitok_jax import cli
from unitok_jax.errors import UserError
from unitok_jax.parallel.chips import CHIPS
from unitok_jax.planning import programs, table
from unitok_jax.planning.hlo import Collective
from unitok_jax.planning.plan import Memory, Plan, roofline
from unitok_jax.planning.report import row, tell
from unitok_jax.planning.run import candidates, rank
from unitok_jax.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "configs" / "unitoken" / "base_stage2.py") + ":tiny"
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (extra tpu)")

MEMORY = Memory(arguments=4e9, outputs=4e9, aliased=4e9, temporaries=1e9, peak=5e9)
SENT = [
    Collective("all-gather", "ICI", 64, 100, 6e9, 5.9e9),
    Collective("all-reduce", "DCN", 2, 1, 1e9, 1e9),
]


def made_up(fits: bool = True, seconds: float = 1.0, batch: int = 8) -> Plan:
    estimate = dict.fromkeys(("compute_s", "memory_s", "ici_s", "dcn_s", "fastest_s", "slowest_s"), seconds)
    estimate |= {"mfu_best": 0.5, "mfu_worst": 0.4, "chip_hours_fastest": 10.0, "chip_hours_slowest": 12.0}
    mesh = {"data": 2, "fsdp": 64, "tensor": 1, "context": 1}
    return Plan(
        *("train step", "v5p:4x4x4", 2, 128, mesh, batch, fits, MEMORY if fits else None, 5e9, CHIPS["v5p"].hbm, SENT),
        *(["attention: splash"], 2e15, 1.5e15, estimate if fits else None, 3.0),
    )


def test_the_roofline():
    chip = CHIPS["v5p"]
    got = roofline(chip, 128, 128 * chip.flops, 64 * chip.flops, MEMORY, SENT)
    assert got["compute_s"] == 1.0
    assert got["memory_s"] == pytest.approx(10e9 / chip.hbm_rate)
    assert got["ici_s"] == pytest.approx(5.9e9 / chip.ici_rate)
    assert got["dcn_s"] == pytest.approx(1e9 / chip.dcn_rate)
    assert got["fastest_s"] == 1.0 and got["mfu_best"] == 0.5
    assert got["slowest_s"] == pytest.approx(1 + got["ici_s"] + got["dcn_s"])


def test_a_plan_in_words():
    text = tell(made_up(), {"lm": 7_000_000_000, "adapter": 5_000})
    assert "2 x v5p:4x4x4: 128 chips" in text and "lm 7.00 B, adapter 5.00 k" in text
    assert "ESTIMATE" in text and "fits" in text and "DCN all-reduce over 2" in text
    assert "DOES NOT FIT" in tell(made_up(fits=False), {})
    assert row("r", made_up()).count("|") == table.report.HEADER.count("|")
    assert row("r", made_up(fits=False)).count("|") == table.report.HEADER.count("|")


def test_what_fits_ranks_first_and_then_the_fastest_row():
    slow, fast, large = made_up(seconds=2), made_up(seconds=3, batch=16), made_up(fits=False)
    assert sorted([large, slow, fast], key=rank) == [fast, slow, large]


def test_candidates_divide_the_chips_and_the_batch():
    config = TrainConfig("unitoken", "lm", 1, {"batch_size": 64}, {}, accumulate=2)
    found = list(candidates(config, 32, 2))
    assert found
    for mesh, batch in found:
        assert mesh.data * mesh.fsdp * mesh.tensor * mesh.context == 32 and mesh.data == 2
        assert batch % (2 * mesh.data * mesh.fsdp) == 0
    assert {batch for _, batch in found} == {32, 64, 128}


def test_without_libtpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"needs libtpu.*pip install 'unitok-jax\[tpu\]'"):
        programs.absent_devices("v5e:2x2", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology", "v5e:3x3"], "v5e has no slice '3x3'; nearest: v5e:2x4"),
        (["--topology", "v7:2x2"], "no TPU 'v7'"),
        (["--topology", "v5e:2x2", "--slices", "0"], "--slices 0: expected 1 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, capsys):
    assert cli.main(["plan", "--config", RECIPE, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_page_is_made_of_what_was_compiled(tmp_path):
    done = {
        "a": {"recipe": "b.py", "topology": "v5e:2x2", "row": "| b |", "date": "2026-01-01", "versions": "jax 1"},
        "c": {"recipe": "a.py", "topology": "v5e:2x2", "error": "no", "date": "2026-01-01", "versions": "jax 1"},
    }
    page = table.render(done)
    assert "| b |" in page and "- a.py on v5e:2x2: no" in page and "2026-01-01, jax 1" in page


@pytest.mark.aot
@needs_libtpu
def test_a_train_step_and_a_decode_are_compiled(capsys):
    batch = ["--config.data.batch_size=8", "--config.inference.batch_size=8"]
    words = ["plan", "--config", RECIPE, "--topology", "v5e:2x2", "--json", *batch]
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    (plan,) = result["plans"]
    assert plan["fits"] and plan["chips"] == 4 and plan["mesh"]["fsdp"] == 4
    assert plan["flops"] == plan["model_flops"] > 1e6, "the tiny model computes nothing twice"
    assert plan["memory"]["peak"] > plan["memory"]["arguments"] > 0
    assert {"all-gather", "all-reduce"} <= {each["kind"] for each in plan["collectives"]}
    assert result["parameters"]["lm"] > 1000
    assert cli.main([*words, "--decode"]) == 0
    prefill, decode = json.loads(capsys.readouterr().out)["plans"]
    assert (prefill["program"], decode["program"]) == ("prefill", "decode step")
    assert prefill["fits"] and decode["fits"]
