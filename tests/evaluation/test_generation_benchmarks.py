"""Dumps for the published generation benchmarks: their scorers' folders, what tells of them, what goes on."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from unitok_jax.errors import UserError
from unitok_jax.evaluation import benchmarks
from unitok_jax.evaluation.suites import suite
from unitok_jax.inference.settings import InferenceSettings

CONFIG = {"system": "toy", "seed": 0, "config hash": "0123456789ab", "step": "run/checkpoints/1"}
GENEVAL = [{"tag": "counting", "prompt": "two red dogs"}, {"tag": "single_object", "prompt": "a photo of a cat"}]


class Painter:
    """Paints every picture in one colour: the length of the prompt, the seed, the guidance."""

    def __init__(self, fail_after=None):
        self.settings, self.params = InferenceSettings(batch_size=4), {"a": {"b": np.arange(3.0)}}
        self.drawn, self._fail_after = [], fail_after

    def generate(self, prompts, *, seeds, guidance):
        if self._fail_after is not None and len(self.drawn) >= self._fail_after:
            raise KeyboardInterrupt
        self.drawn += zip(prompts, seeds, strict=True)
        told = [(len(p), s, guidance or 0) for p, s in zip(prompts, seeds, strict=True)]
        return np.array(told, np.uint8)[:, None, None].repeat(6, 1).repeat(8, 2)


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    return path


def draw(name, out, prompts, painter=None, **options):
    figures = suite(name)(painter or Painter(), {**CONFIG, "options": {"prompts": str(prompts), **options}}, out)
    return figures, json.loads((out / "result.json").read_text())


def files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if path.parent != out)


def colour(path):
    picture = np.asarray(Image.open(path))
    assert (picture == picture[0, 0]).all()
    return picture[0, 0].tolist()


def test_geneval_gets_a_folder_a_prompt(metadata, tmp_path):
    out = tmp_path / "out"
    figures, _ = draw("geneval", out, metadata, guidance=3.0, seed=7)
    assert figures == {"prompts": 2, "pictures": 8}
    pictures = [f"{prompt:05d}/samples/{number:05d}.png" for prompt in range(2) for number in range(4)]
    assert files(out) == sorted([*pictures, "00000/metadata.jsonl", "00001/metadata.jsonl"])
    assert [json.loads((out / f"{i:05d}" / "metadata.jsonl").read_text()) for i in range(2)] == GENEVAL
    assert colour(out / "00001/samples/00002.png") == [len("a photo of a cat"), 9, 3]


def test_dpg_gets_four_pictures_in_one_file_named_as_the_prompt(tmp_path):
    (tmp_path / "prompts").mkdir()
    for name, text in (("partiprompts1", "a long story\n"), ("256", "a horse")):
        (tmp_path / "prompts" / f"{name}.txt").write_text(text)
    _, result = draw("dpg", tmp_path / "out", tmp_path / "prompts")
    assert files(tmp_path / "out") == ["images/256.png", "images/partiprompts1.png"]
    grid = np.asarray(Image.open(tmp_path / "out" / "images" / "partiprompts1.png"))
    assert grid.shape == (12, 16, 3) and result["made_by"]["resolution"] == [6, 8]
    assert grid[::6, ::8].tolist() == [[[12, 0, 0], [12, 1, 0]], [[12, 2, 0], [12, 3, 0]]]
    draw("dpg", tmp_path / "one", tmp_path / "prompts", samples=1)
    assert colour(tmp_path / "one" / "images" / "256.png") == [7, 0, 0]
    with pytest.raises(UserError, match="--samples 3: DPG-Bench takes 4 pictures of a prompt, in one file, or 1"):
        draw("dpg", tmp_path / "three", tmp_path / "prompts", samples=3)


def test_t2i_compbench_numbers_through_all_prompts(tmp_path):
    (tmp_path / "color_val.txt").write_text("a red book and a blue cup\ta red book\na green bench.\n")
    figures, _ = draw("t2i-compbench", tmp_path / "out", tmp_path / "color_val.txt", samples=2)
    assert figures == {"prompts": 2, "pictures": 4}
    prompts = ("a red book and a blue cup", "a red book and a blue cup", "a green bench.", "a green bench.")
    assert files(tmp_path / "out") == sorted(f"samples/{prompt}_{i:06d}.png" for i, prompt in enumerate(prompts))
    assert colour(tmp_path / "out" / "samples" / "a green bench._000003.png") == [14, 1, 0]


@pytest.mark.parametrize("prompt", ["cat/dog", "a_b", "x" * 250])
def test_t2i_compbench_refuses_what_its_scorers_would_read_otherwise(prompt, tmp_path):
    (tmp_path / "val.txt").write_text(prompt)
    with pytest.raises(UserError, match="read prompts off file names"):
        draw("t2i-compbench", tmp_path / "out", tmp_path / "val.txt")


def test_a_result_tells_what_made_the_pictures_and_every_seed(metadata, tmp_path):
    figures, result = draw("geneval", tmp_path / "out", metadata, samples=1, guidance=2.5, seed=3)
    told = result["made_by"]
    assert (result["suite"], result["figures"]) == ("geneval", figures)
    assert (told["split"], told["samples"], told["guidance"], told["seed"]) == ("evaluation_metadata.jsonl", 1, 2.5, 3)
    assert {"checkpoint hash", "config hash", "step", "jax", "python", "device", "prompts hash", "top_k"} <= set(told)
    rows = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert rows == [
        {"file": f"{i:05d}/samples/00000.png", "prompt": row["prompt"], "seeds": [3]} for i, row in enumerate(GENEVAL)
    ]


def test_a_killed_run_goes_on_and_no_other_does(metadata, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        draw("geneval", out, metadata, Painter(fail_after=4))
    assert not (out / "result.json").exists()
    again = Painter()
    draw("geneval", out, metadata, again)
    assert again.drawn == [(GENEVAL[1]["prompt"], seed) for seed in range(4)]
    other = Painter()
    other.params["a"]["b"] = np.arange(3.0) + 1
    with pytest.raises(UserError, match=r"holds pictures of checkpoint hash \w+, not \w+; take another --out"):
        draw("geneval", out, metadata, other)
    with pytest.raises(UserError, match=r"holds pictures of guidance 3\.0, not 5\.0"):
        draw("geneval", out, metadata, guidance=5.0)


def test_processes_share_the_files(metadata, tmp_path, monkeypatch):
    drawn, met = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(benchmarks.multihost_utils, "sync_global_devices", met.append)
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        painter, config = Painter(), {**CONFIG, "options": {"prompts": str(metadata)}}
        assert suite("geneval")(painter, config, tmp_path / "out") == {"prompts": 2, "pictures": 8}
        assert (tmp_path / "out" / "result.json").exists() == (process == 0)
        drawn.append(painter.drawn)
    assert len(drawn[0]) == len(drawn[1]) == 4 and len({*drawn[0], *drawn[1]}) == 8 and len(met) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("geneval", "a photo of a cat\n", r"given:1: expected a JSON object with a prompt"),
        ("geneval", "", "no prompts of geneval in it"),
        ("t2i-compbench", "\n", "no prompts of t2i-compbench in it"),
        ("geneval", None, r"--prompts: \S+given; give the prompts that geneval comes with"),
    ],
)
def test_wrong_prompts_are_told_in_one_line(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / "given").write_text(text)
    with pytest.raises(UserError, match=message):
        draw(name, tmp_path / "out", tmp_path / "given")


def test_prompts_must_be_given(tmp_path):
    with pytest.raises(UserError, match="--prompts: missing; give the prompts that dpg comes with"):
        suite("dpg")(Painter(), CONFIG, tmp_path / "out")
