"""Plans: of a tiny recipe for TPUs that are not there, and what is said where one cannot be made."""

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from unitok_jax import cli
from unitok_jax.errors import UserError
from unitok_jax.layers.attention import attention
from unitok_jax.layers.masks import AttentionMask
from unitok_jax.parallel.chips import CHIPS
from unitok_jax.planning import programs, table
from unitok_jax.planning import run as planning
from unitok_jax.planning.hlo import Collective
from unitok_jax.planning.plan import Memory, Plan, compile_program, kernels_of, roofline
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
        program="train step",
        parameters={"lm": 7_000_000_000, "adapter": 5_000},
        topology="v5p:4x4x4",
        slices=2,
        chips=128,
        mesh=mesh,
        batch=batch,
        fits=fits,
        memory=MEMORY if fits else None,
        needed=5e9,
        hbm=CHIPS["v5p"].hbm,
        collectives=SENT,
        kernels=["attention: splash"],
        flops=2e15,
        model_flops=1.5e15,
        estimate=estimate if fits else None,
        compile_seconds=3.0,
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
    text = tell(made_up())
    assert "2 x v5p:4x4x4: 128 chips" in text and "lm 7.00 B, adapter 5.00 k" in text
    assert "ESTIMATE" in text and "fits" in text and "DCN all-reduce over 2" in text
    assert "DOES NOT FIT" in tell(made_up(fits=False))
    assert row("r", made_up()).count("|") == table.report.HEADER.count("|")
    assert row("r", made_up(fits=False)).count("|") == table.report.HEADER.count("|")


def test_what_fits_ranks_first_and_then_the_fastest_row():
    slow, fast, large = made_up(seconds=2), made_up(seconds=3, batch=16), made_up(fits=False)
    assert sorted([large, slow, fast], key=rank) == [fast, slow, large]


def test_candidates_divide_the_chips_and_the_batch():
    found = list(candidates(64, 32, 2, accumulate=2))
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


def test_what_attends_is_told_by_name():
    """A program with two attentions, the second over rows long enough for blocks."""
    short, long = (jax.ShapeDtypeStruct((1, length, 1, 8), "float32") for length in (8, 1152))

    def both(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(attention(x, x, x, AttentionMask()) for x in (a, b))

    text = jax.jit(both).lower(short, long).compile().as_text()
    assert kernels_of(text) == ["attention: blockwise", "attention: xla"]


def test_a_search_hides_no_mistake_and_counts_samples_of_a_decode(monkeypatch):
    config = TrainConfig("unitoken", "lm", 1, {"batch_size": 64}, {}, inference={"batch_size": 8})
    target = SimpleNamespace(devices=range(4), slices=1)
    tried = []

    def record(config: TrainConfig, target: Any, decode: bool) -> list[Plan]:
        tried.append((config.mesh.fsdp, config.inference["batch_size"]))
        return [made_up()]

    monkeypatch.setattr(planning, "make_plans", record)
    assert len(planning.search(config, target, lambda plan: None, decode=True)) == len(tried)
    assert {batch for _, batch in tried} == {4, 8, 16}

    def refuse(*_: Any) -> list[Plan]:
        raise UserError("config.model.lm.width: wrong")

    monkeypatch.setattr(planning, "make_plans", refuse)
    with pytest.raises(UserError, match="width: wrong"):
        planning.search(config, target, lambda plan: None)


def test_rows_that_are_not_asked_for_go_and_a_crash_is_tried_again(monkeypatch, tmp_path):
    out, calls = tmp_path / "plans.md", []

    def compiled(config: TrainConfig, target: Any) -> list[Plan]:
        calls.append(target.topology)
        if len(calls) == 1:
            raise ValueError("no luck\nwith this one")
        return [made_up()]

    monkeypatch.setattr(table, "apart", lambda plan, *what: plan(*what))
    monkeypatch.setattr(table, "make_plans", compiled)
    monkeypatch.setattr(table, "_dividing", lambda config, target: config)
    out.with_suffix(".json").write_text(
        json.dumps({"old": {"recipe": "gone.py", "topology": "v5e:2x2", "row": "| gone |"}})
    )
    words = [str(out), RECIPE, "--topologies", "v5e:2x2", "v5e:2x4"]
    table.main(words)
    assert "the compiler failed: no luck" in out.read_text() and "gone" not in out.read_text()
    table.main(words)
    assert calls == ["v5e:2x2", "v5e:2x4", "v5e:2x2"] and "no luck" not in out.read_text()


def test_a_compiler_that_ends_its_process_is_told_and_the_next_plan_made():
    assert table.apart(end_the_process, "r.py", "v5e:2x2") == {
        "error": "the compiler ended its process",
        "crashed": True,
    }
    assert table.apart(find_a_row, "r.py", "v5e:2x2") == {"row": "r.py v5e:2x2"}


def end_the_process(recipe: str, topology: str) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def find_a_row(recipe: str, topology: str) -> dict[str, Any]:
    return {"row": f"{recipe} {topology}"}


@pytest.mark.parametrize(
    "told",
    [
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.50G of 15.75G hbm.",
        "Ran out of memory on HBM, total memory required for HLO temporaries (18.50G) exceeds available HBM (15.75G).",
    ],
)
def test_a_program_that_does_not_fit_says_how_much_it_needs(told):
    def compile_it() -> Any:
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {told}")

    traced = SimpleNamespace(lower=lambda: SimpleNamespace(compile=compile_it))
    assert compile_program(programs.Program("train step", traced)) == (None, 18.5 * 2**30)


def plan_of(capsys: Any, *words: str) -> list[dict[str, Any]]:
    assert cli.main(["plan", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)["plans"]


AHEAD = {  # what: recipe, overrides, how it attends on a TPU
    "unitoken_lm": ("unitoken/base_stage2.py:tiny,packed", {"stage_options.row_length": 1280}, {"splash"}),
    "unitoken_vqgan": ("unitoken/vqgan.py:tiny", {}, set()),
    "dualtoken_tokenizer": ("dualtoken/tokenizer.py:tiny", {}, {"xla"}),
    "dualtoken_lm": ("dualtoken/lm.py:tiny", {}, {"xla"}),
    "tar_ta_tok": ("tar/ta_tok.py:tiny", {}, {"xla"}),
    "tar_lm": ("tar/pretrain.py:tiny", {"stage_options.row_length": 1280}, {"splash", "xla"}),
    "uniwetok_lm": ("uniwetok/lm.py:tiny,P4", {"stage_options.row_length": 1280}, {"blockwise"}),
}


@pytest.mark.aot
@needs_libtpu
@pytest.mark.parametrize("case", AHEAD)
def test_a_train_step_is_compiled(case, capsys):
    recipe, overrides, attends = AHEAD[case]
    changes = [f"--config.{name}={value}" for name, value in {"data.batch_size": 8, **overrides}.items()]
    words = ["--config", str(ROOT / "configs" / recipe), "--topology", "v5e:2x2", *changes]
    (plan,) = plan_of(capsys, *words)
    assert plan["fits"] and plan["chips"] == 4 and plan["mesh"]["fsdp"] == 4
    assert plan["flops"] == plan["model_flops"] > 1e6, "the tiny model computes nothing twice"
    assert plan["memory"]["peak"] > plan["memory"]["arguments"] > 0
    assert {"all-gather", "all-reduce"} & {each["kind"] for each in plan["collectives"]}
    assert {name.removeprefix("attention: ") for name in plan["kernels"]} >= attends
    assert plan["estimate"]["chip_hours_fastest"] > 0


@pytest.mark.aot
@needs_libtpu
def test_two_slices_sum_over_dcn_and_a_decode_is_compiled(capsys):
    words = ["--config", RECIPE, "--config.data.batch_size=8", "--config.inference.batch_size=4"]
    (plan,) = plan_of(capsys, *words, "--topology", "v5e:2x2", "--slices", "2")
    assert plan["chips"] == 8 and plan["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1, "context": 1}
    assert {each["network"] for each in plan["collectives"]} == {"ICI", "DCN"}
    prefill, decode = plan_of(capsys, *words, "--topology", "v5e:2x2", "--decode")
    assert (prefill["program"], decode["program"]) == ("prefill", "decode step")
    assert prefill["fits"] and decode["fits"]
    assert prefill["flops"] > decode["flops"] > 0 and decode["estimate"]["memory_s"] > 0
    assert "chip_hours_fastest" not in decode["estimate"]
