import json
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import CONFIG, Oracle

from unitok_jax import cli
from unitok_jax.data import digits, scenes
from unitok_jax.data.scene_draws import draw, edit
from unitok_jax.data.scenes import Item, Request, placed
from unitok_jax.evaluation import digit_scenes, files
from unitok_jax.evaluation.scene_judge import see, shows, verdict
from unitok_jax.evaluation.suites import REPORTS, suite
from unitok_jax.training.workdir import workdir_hash

SETTINGS = {**CONFIG, "evaluation": {"prompts": 3, "pictures": 12, "edits": 8}}


def scan(digit, rank=0):
    """A training scan that shows a digit."""
    return [i for i in range(len(digits.load()[0])) if not digits.held_out(i) and digits.digit(i) == digit][rank]


def seen(*items):
    """What the judge sees in a picture of (cell, digit, colour) each."""
    return see(scenes.render(placed([Item(c, scan(d, n), k) for n, (c, d, k) in enumerate(items)]))[None])[0]


def test_the_judge_knows_true_scenes():
    drawn = [draw(split, 0, i)[:2] for split in ("held_out", "unseen") for i in range(200)]
    judged = see(np.stack([scenes.render(scene) for scene, _ in drawn]))
    assert np.mean([shows(j, scene) for j, (scene, _) in zip(judged, drawn, strict=True)]) >= 0.97
    assert np.mean([verdict(j, request) == "right" for j, (_, request) in zip(judged, drawn, strict=True)]) >= 0.97


TWO = (0, 2, "red"), (1, 7, "blue")


@pytest.mark.parametrize(
    ("category", "wanted", "relation", "items", "expected"),
    [
        ("single_object", [(2, None)], "", TWO[:1], "right"),
        ("single_object", [(2, None)], "", (), "number"),
        ("single_object", [(2, None)], "", TWO, "number"),
        ("single_object", [(3, None)], "", TWO[:1], "digit"),
        ("two_objects", [(7, None), (2, None)], "", TWO, "right"),
        ("two_objects", [(7, None), (7, None)], "", TWO, "digit"),
        ("two_objects", [(7, None), (2, None)], "", TWO[1:], "number"),
        ("counting", [(2, None)] * 3, "", [(c, 2, "cyan") for c in (0, 1, 3)], "right"),
        ("counting", [(2, None)] * 3, "", [(c, 2, "cyan") for c in range(4)], "number"),
        ("colours", [(2, "red")], "", TWO[:1], "right"),
        ("colours", [(2, "green")], "", TWO[:1], "colour"),
        ("attribute_binding", [(7, "blue"), (2, "red")], "", TWO, "right"),
        ("attribute_binding", [(7, "red"), (2, "blue")], "", TWO, "colour"),
        ("position", [(2, None), (7, None)], "left of", TWO, "right"),
        ("position", [(7, None), (2, None)], "left of", TWO, "position"),
        ("position", [(7, None), (2, None)], "right of", TWO, "right"),
        ("position", [(2, None), (7, None)], "above", TWO, "position"),
        ("position", [(2, None), (7, None)], "above", [(1, 2, "red"), (3, 7, "red")], "right"),
        ("position", [(2, None), (7, None)], "below", [(1, 2, "red"), (3, 7, "red")], "position"),
    ],
)
def test_each_kind_of_wrong_scene_is_caught(category, wanted, relation, items, expected):
    assert verdict(seen(*items), Request(category, tuple(wanted), relation)) == expected


def test_a_scene_is_known_by_digit_colour_and_cell():
    scene = placed([Item(0, scan(2), "red"), Item(3, scan(7), "blue")])
    assert shows(seen((0, 2, "red"), (3, 7, "blue")), scene)
    for wrong in ([(0, 2, "red")], [(0, 2, "red"), (2, 7, "blue")], [(0, 2, "blue"), (3, 7, "red")]):
        assert not shows(seen(*wrong), scene)
    assert see(np.zeros((1, 32, 32, 3), np.uint8)) == [{}]


def test_larger_pictures_are_judged_alike():
    scene = placed([Item(1, scan(4), "orange"), Item(2, scan(9), "white")])
    assert shows(see(scenes.render(scene, 64)[None])[0], scene)


class SceneOracle(Oracle):
    """Draws the scene that a request was made from; reads by the judge, which it cannot be told from."""

    def __init__(self):
        super().__init__()
        drawn = [(split, i) for split in ("held_out", "unseen") for i in range(40)]
        self._scenes = {draw(split, 0, i)[1].text: draw(split, 0, i)[0] for split, i in drawn}
        self._edits = {}
        for scene, _, rng in (draw("held_out", 0, i) for i in range(8)):
            instruction, target = edit(scene, "held_out", rng)
            self._edits[scenes.render(scene).tobytes(), instruction] = target
        self._held_out = {scenes.render(s).tobytes(): s for s in (draw("held_out", 0, i)[0] for i in range(40))}

    def generate(self, prompts, *, seeds=0):
        return np.stack([scenes.render(self._scenes[prompt]) for prompt in prompts])

    def edit(self, images, instructions, *, seeds=0):
        return np.stack(
            [scenes.render(self._edits[i.tobytes(), text]) for i, text in zip(images, instructions, strict=True)]
        )

    def caption(self, images):
        return [scenes.caption(self._held_out[image.tobytes()]) for image in images]

    def ask(self, images, questions):
        known = [dict(zip(*scenes.questions(self._held_out[image.tobytes()]), strict=True)) for image in images]
        return [answers[question] for answers, question in zip(known, questions, strict=True)]


class Mirrored(SceneOracle):
    """Swaps left and right everywhere, and never keeps what it sees apart from that."""

    def generate(self, prompts, *, seeds=0):
        pictures = super().generate(prompts, seeds=seeds)
        return np.concatenate([pictures[:, :, 16:], pictures[:, :, :16]], axis=2)

    def edit(self, images, instructions, *, seeds=0):
        return np.stack(list(images))

    def caption(self, images):
        swapped = {"left": "right", "right": "left"}
        return [re.sub("left|right", lambda m: swapped[m[0]], text) for text in super().caption(images)]

    def ask(self, images, questions):
        return ["none"] * len(images)


def test_an_oracle_is_right_and_says_whose_suite_it_is(tmp_path):
    figures = suite("digit_scenes")(SceneOracle(), SETTINGS, tmp_path)
    assert figures["caption_exact"] == figures["answer_exact"] == 1
    assert min(figures.values()) >= 0.66 and figures["generation_overall"] >= 0.94
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures
    told = files.read_json(tmp_path / "settings.json")
    assert told["suite"].startswith("made for unitok_jax") and told["prompts"] == 3
    rows = files.read_rows(tmp_path / "generated.jsonl")
    assert len(rows) == 3 * 6 + 3 * 5 and (tmp_path / rows[0]["file"]).exists()
    page = REPORTS["digit_scenes"](tmp_path, {}, ["unitok evaluate"]).read_text()
    assert all(row["prompt"] in page for row in rows)


def test_one_that_mixes_up_left_and_right_fails_where_that_matters(tmp_path):
    figures = digit_scenes.evaluate(Mirrored(), SETTINGS, tmp_path)
    rows = files.read_rows(tmp_path / "generated.jsonl")
    beside = [row["verdict"] for row in rows if "left of" in row["prompt"] or "right of" in row["prompt"]]
    assert beside and "right" not in beside
    zeros = [figures[name] for name in ("caption_exact", "answer_exact", "edit_correct")]
    assert zeros == [0, 0, 0] and figures["generation_attribute_binding"] >= 0.66


@pytest.mark.exhaustive
def test_the_recipe_trains_and_is_scored(tmp_path, monkeypatch, capsys):
    recipe = Path(__file__).parents[2] / "configs" / "demo" / "scenes.py"
    monkeypatch.chdir(tmp_path)
    for stage in ("tokenizer", "lm"):
        small = ["--config.steps=2", "--config.data.batch_size=2"]
        small += ["--config.eval_every=0", "--config.evaluation.prompts=1"] if stage == "lm" else []
        small += ["--config.evaluation.pictures=4", "--config.evaluation.edits=4"] if stage == "lm" else []
        assert cli.main(["train", "--config", f"{recipe}:{stage}", "--workdir", f"runs/scenes/{stage}", *small]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--workdir", "runs/scenes/lm", "--suite", "digit_scenes"]) == 0
    told = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert float(told["judge_accuracy"]) >= 0.75 and float(told["caption_exact"]) == 0
    assert "edit_correct" in told and told["report"].endswith("digit_scenes/report.html")
    settings = files.read_json(Path("runs/scenes/lm/digit_scenes/settings.json"))
    assert settings["config hash"] == workdir_hash("runs/scenes/lm") and settings["guidance"] == 2.0
