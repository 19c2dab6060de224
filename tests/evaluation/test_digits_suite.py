import json

import numpy as np
import pytest
from fakes import CONFIG, Copier, Oracle
from PIL import Image

from unitok_jax.data import digits
from unitok_jax.errors import UserError
from unitok_jax.evaluation import drawing, files, reading
from unitok_jax.evaluation.digits import evaluate
from unitok_jax.evaluation.suites import suite
from unitok_jax.evaluation.targets import TARGETS


def test_an_oracle_meets_every_target(oracle):
    figures, out = oracle
    assert [target.key for target in TARGETS if not target.met(figures)] == []
    ones = ["caption_exact", "caption_exact_seen_pairs", "caption_exact_unseen_pairs", "answer_colour", "answer_digit"]
    assert [figures[name] for name in ones] == [1] * len(ones)
    assert figures["codebook_usage"] == 1 and figures["codebook_perplexity"] > 250
    assert figures["reconstruction_psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=2)
    assert json.loads((out / "metrics.json").read_text()) == figures
    assert all(isinstance(value, int | float) for value in figures.values())


def test_one_that_is_always_wrong_meets_none_that_depends_on_it(wrong):
    figures, _ = wrong
    zeros = ["caption_exact", "answer_colour", "answer_digit", "generation_correct", "reconstruction_judged"]
    assert [figures[name] for name in zeros] == [0] * len(zeros)
    assert figures["generation_correct_unseen_pairs"] == 0
    assert figures["codebook_usage"] == 1 / 256 and figures["codebook_perplexity"] == pytest.approx(1)


def test_a_copier_is_caught(tmp_path):
    figures = drawing.generations(Copier(), tmp_path, seed=0, seen=1, unseen=1)
    assert figures["generation_copies"] == 1
    assert figures["generation_correct"] > 0.98
    assert figures["generation_correct_unseen_pairs"] == 0


def test_the_streams_are_told_apart(oracle):
    figures, _ = oracle
    assert figures["caption_exact_codes_blanked"] == 1 and figures["caption_exact_features_blanked"] == 0
    for part in ("", "digit_", "colour_"):
        shares = [figures[f"disagree_{part}{side}"] for side in ("codes", "features", "neither")]
        assert shares == [0, 1, 0]


def test_disagreeing_pictures_differ_in_both():
    scans = digits.split("held_out")
    others = reading.disagreeing(scans, seed=3)
    assert others == reading.disagreeing(scans, seed=3) != reading.disagreeing(scans, seed=4)
    for (i, colour), (j, other) in zip(scans, others, strict=True):
        assert digits.digit(i) != digits.digit(j) and colour != other


def test_its_files_are_complete(oracle):
    _, out = oracle
    captions = files.read_rows(out / "captions.jsonl")
    assert [(r["index"], r["colour"]) for r in captions] == list(digits.split("held_out"))
    assert captions[1] == {"index": 6, "colour": "green", "digit": 6, "caption": "a handwritten green six"}
    generated = files.read_rows(out / "generated.jsonl")
    seen = [r for r in generated if r["seen"]]
    assert len(seen) == 222 and {(r["digit"], r["colour"]) for r in generated if not r["seen"]} == digits.UNSEEN_PAIRS
    assert {r["file"] for r in generated} == {f"generated/{p.name}" for p in (out / "generated").iterdir()}
    assert np.asarray(Image.open(out / generated[0]["file"])).shape == (digits.SIZE, digits.SIZE, 3)
    assert not list(out.rglob("*.unfinished"))


@pytest.mark.slow
def test_same_seed_same_files(oracle, tmp_path):
    figures, out = oracle
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated" / "999-old.png").write_bytes(b"left by an earlier evaluation")
    assert suite("digits")(Oracle(), CONFIG, tmp_path) == figures
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert (tmp_path / path.relative_to(out)).read_bytes() == path.read_bytes()
    assert not (tmp_path / "generated" / "999-old.png").exists()


def test_wrong_names_are_answered_with_near_ones(tmp_path):
    with pytest.raises(UserError, match=r"--suite: no suite 'digit'. Did you mean digits\?"):
        suite("digit")
    with pytest.raises(UserError, match=r"config.evaluation.sed: no such key. Did you mean seed\?"):
        evaluate(Oracle(), {"system": "unitoken", "seed": 0, "evaluation": {"sed": 1}}, tmp_path)


def test_a_killed_write_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "metrics.json", {"a": 1})
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "metrics.json") as file:
        file.write(b'{"a"')
        raise KeyboardInterrupt
    assert files.read_json(tmp_path / "metrics.json") == {"a": 1}
