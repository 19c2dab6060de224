"""`make claims`: what figures say of a claim, the page, going on after a kill, and the commands of every claim."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.claims import page
from benchmarks.claims.__main__ import CLAIMS, look, main
from benchmarks.claims.claim import Claim, Figure, verdict
from benchmarks.claims.runs import Runs, read, write
from unitok_jax import cli
from unitok_jax.cli.arguments import parse
from unitok_jax.config import load_config
from unitok_jax.training.config import read_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("base", "better", "options", "found"),
    [
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.31), {}, "seen"),
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.3), {}, "undecided"),
        ((0.4, 0.5), (0.1, 0.2), {}, "not seen"),
        ((0.4, 0.5), (0.1, 0.2), {"up": False}, "seen"),
        ((0.05, 0.06), (0.1, 0.08), {"chance": 0.1}, "undecided"),
        ((1.2, 1.1), (1.0, 1.05), {"chance": 1.0, "up": False}, "undecided"),
        ((0.1,), (0.4,), {}, "undecided"),
    ],
)
def test_a_claim_is_seen_where_the_seeds_do_not_overlap(base, better, options, found):
    assert verdict(Figure("x", **options), base, better)[0] == found


def toy(measure) -> Claim:
    figures = (Figure("right", chance=0.1, digits=2), Figure("error", up=False))
    return Claim("toy", "toys", "Toys", "They float.", "nowhere", "stone", "cork", figures, "In a bath.", measure)


def toy_figures(seed: int) -> dict:
    return {"stone": {"right": 0.2, "error": 0.5}, "cork": {"right": 0.9 + seed / 100, "error": 0.4 + 0.2 * seed}}


def test_the_page_tells_each_seed_and_what_follows():
    kept = {
        seed: {"figures": toy_figures(seed), "steps": 0, "date": "d", "commit": "c", "machine": "m"} for seed in (0, 1)
    }
    text = page.render([(toy(None), kept)])
    assert "| Toys | right (chance 0.1) ↑ | 0.20 | 0.91 | **seen** |" in text
    assert "| Toys | error ↓ | 0.500 | 0.500 | **undecided** |" in text
    assert "| right (chance 0.1) ↑ | cork | 0.90 | 0.91 | 0.91 |" in text
    assert "TRIAL" not in text and "d, commit c, m." in text
    assert "TRIAL: no run has more than 2 steps" in page.render([(toy(None), {0: kept[0] | {"steps": 2}})])


def test_a_killed_claim_goes_on_with_what_is_missing(tmp_path):
    called = []

    def call(words, dies_at):
        if len(called) == dies_at:
            raise KeyboardInterrupt
        called.append(words[-1])

    def measure(runs):
        for name in ("a", "b", "c"):
            runs.once(name, "module", f"{name}{runs.seed}")
        return toy_figures(runs.seed)

    def go(dies_at=None):
        runs = Runs(tmp_path / "toys", 0, call=functools.partial(call, dies_at=dies_at))
        look(toy(measure), runs, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        go(dies_at=1)
    assert called == ["a0"] and not (tmp_path / "toy" / "0.json").exists()
    go()
    assert called == ["a0", "b0", "c0"]
    assert read(tmp_path / "toy" / "0.json")["figures"] == toy_figures(0)
    go()
    assert called == ["a0", "b0", "c0"]
    page.write_page(tmp_path / "page.md", [toy(measure)], tmp_path)
    assert "one seed alone decides nothing" in (tmp_path / "page.md").read_text()


def test_another_command_under_the_same_mark_is_run(tmp_path):
    called = []
    runs = Runs(tmp_path, 0, call=called.append)
    for steps in (2, 2, 3):
        runs.train("tower", "tower.py", steps)
    assert ["--config.steps=2" in words for words in called] == [True, False]


def pretend(words):
    """In the place of a command: sees that it could run, and leaves figures that something follows from."""
    module, *rest = words
    value = {flag: rest[i + 1] for i, flag in enumerate(rest) if flag.startswith("--") and "=" not in flag}
    if module == "unitok_jax.cli" and rest[0] == "train":
        overrides = [word for word in rest if "=" in word]
        read_config(load_config(value["--config"], overrides))
        metrics = Path(value["--workdir"], "metrics", "0000000000.jsonl")
        write(metrics.with_suffix(".json"), 0)
        metrics.write_text(json.dumps({"step": 1, "validation/held_out/loss/distill_post": 0.5}) + "\n")
    elif module == "unitok_jax.cli":
        parse(rest)
        names = ("psnr", "ssim", "zero_shot_top1", "caption_exact", "answer_digit", "codebook_perplexity")
        figures = dict.fromkeys((*names, "generation_correct", "generation_correct_unseen_pairs"), 0.5)
        write(Path(value["--out"], "metrics.json"), figures)
        write(Path(value["--out"], "result.json"), {"figures": figures})
    elif module == "benchmarks.claims.semantics":
        write(Path(value["--out"]), {"zero_shot_top1": 0.5})
    else:
        assert module == "unitok_jax.cli.sample_classes"
        drawn = Path(value["--out"], "0003", "0000.png")
        drawn.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(drawn)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_says_commands_that_can_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    claim = CLAIMS[name]
    look(claim, Runs(tmp_path / claim.system, 1, call=pretend), tmp_path)
    found = read(tmp_path / name / "1.json")["figures"]
    assert list(found) == [claim.base, claim.better]
    assert all({figure.name for figure in claim.figures} == set(figures) for figures in found.values())


def test_an_unknown_claim_is_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "page.md"), "tar-cookbook"])
    assert "no claim 'tar-cookbook'; known: " in capsys.readouterr().err


def in_process(words):
    """A command without a process of its own, which saves starting it."""
    if words[0] == "unitok_jax.cli":
        assert cli.main(words[1:]) == 0
    else:
        sys.modules[words[0]].main(words[1:])


@pytest.mark.exhaustive  # four minutes; CI trains the same recipes in the shortened demos
def test_a_claim_of_two_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    claim = CLAIMS["dualtoken-codebooks"]
    look(claim, Runs(tmp_path / claim.system, 0, steps=2, call=in_process), tmp_path)
    page.write_page(tmp_path / "page.md", [claim], tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert (
        "A TRIAL: no run has more than 2 steps." in text and "| zero-shot (chance 0.1) ↑ | two codebooks | 0." in text
    )
