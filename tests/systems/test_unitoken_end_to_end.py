"""UniToken-AnyRes from a recipe to answers and pictures, through the command line, at tiny size."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from unitoken_tiny import RECIPES, train

from unitok_jax import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["anyres_stage2", "base_stage2"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    train(folder, request.param)
    return folder


def run(capsys, trained, command, *argv):
    code = cli.main([command, "--workdir", str(trained / "run"), *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_pictures_of_all_shapes_are_captioned_in_one_batch(trained, capsys):
    pictures = [trained / f"{i}.png" for i in range(3)]
    code, together, _ = run(capsys, trained, "caption", *pictures)
    assert code == 0 and all(f"{path}\t" in together for path in pictures)
    _, alone, _ = run(capsys, trained, "caption", pictures[1])
    assert alone in together
    assert run(capsys, trained, "ask", "--question", "which?", pictures[0])[0] == 0


def test_a_recipe_that_asks_for_sample_sheets_gets_them(trained):
    sheets = sorted(path.name for path in (trained / "run").glob("samples/*"))
    base = trained.name.startswith("base")
    assert sheets == (["0000000002.jsonl", "0000000002.png"] if base else [])
    if base:
        assert (trained / "run" / "samples" / sheets[0]).read_text().count('"prompt"') == 4


def test_pictures_are_drawn_from_words_and_from_pictures(trained, capsys):
    def draw(name, *argv):
        code, out, _ = run(capsys, trained, "generate", "a red seven", "--out", trained / name, *argv)
        assert code == 0
        (path,) = out.splitlines()
        return np.asarray(Image.open(path))

    first = draw("a", "--guidance", "3", "--top-k", "50")
    assert first.shape == (16, 16, 3)
    assert (first == draw("b", "--guidance", "3", "--top-k", "50")).all()
    assert (first != draw("c", "--guidance", "3", "--top-k", "50", "--seed", "1")).any()
    assert draw("d", "--grid", "2x6").shape == (8, 24, 3)
    assert draw("e", "--image", trained / "0.png").shape == (16, 16, 3)


def test_a_conversation_goes_on_over_several_turns(trained, capsys, monkeypatch):
    lines = ["what is it?", f"/image {trained / '1.png'}", "and this?", "/draw a blue two", "what did you draw?", ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    code, out, err = run(capsys, trained, "chat", trained / "0.png", "--out", trained / "chat", "--guidance", "2")
    assert code == 0, err
    drawn = [line for line in out.splitlines() if line.endswith("0003-0.png")]
    assert len(drawn) == 1 and np.asarray(Image.open(drawn[0])).shape == (16, 16, 3)


RECIPE = """
import sys
sys.path.insert(0, {root!r})
from configs.unitoken import {name}

def get_config():
    config = {name}.get_config("tiny,data={folder}")
    config.data.train = [dict(kind="arrayrecord", path="{folder}/codes", task="conversation", prompts=["<|image|> "])]
    config.data.codes = True
    config.init_from, config.fresh = dict.fromkeys(("lm", "vit", "adapter", "vqgan"), "{folder}/run"), ()
    return config
"""


def test_a_run_trains_on_codes_that_were_computed_before(trained, capsys, request):
    """`unitok tokenize`, then `unitok train` on its shards."""
    name = request.node.callspec.params["trained"]
    if name != "base_stage2":
        pytest.skip("the codes of AnyRes are the same")
    options = ("--source", "jsonl", f"path={trained}/chartqa_reason.jsonl", "--out", trained / "codes")
    code, out, _ = run(capsys, trained, "tokenize", *options)
    assert code == 0 and "written\t3" in out
    (trained / "codes.py").write_text(RECIPE.format(root=str(RECIPES.parents[1]), folder=trained, name=name))
    arguments = ["train", "--config", str(trained / "codes.py"), "--workdir", str(trained / "second")]
    assert cli.main(arguments) == 0
    lines = [json.loads(line) for path in sorted(trained.glob("second/metrics/*.jsonl")) for line in path.open()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss/lm"]) and not line["bad_examples"] for line in lines)


def test_what_cannot_be_is_told_in_one_line(trained, capsys, monkeypatch):
    broken = trained / "broken.png"
    broken.write_bytes((trained / "0.png").read_bytes()[:200])
    wrong = [
        (("caption", broken), "image cannot be decoded"),
        (("generate", "word " * 5000), "the model's context is 4096"),
        (("generate", "x", "--grid", "3x4"), "must be even"),
        (("generate", "x", "--grid", "4by4"), "--grid: expected ROWSxCOLUMNS"),
        (("generate", "x", "--image", broken), "image cannot be decoded"),
    ]
    for argv, message in wrong:
        code, _, err = run(capsys, trained, *argv)
        assert code == 2 and message in err and err.count("\n") == 1, err
    monkeypatch.setattr(sys, "stdin", io.StringIO("/show me\n"))
    code, _, err = run(capsys, trained, "chat")
    assert code == 2 and "/show: no such command of a chat" in err
