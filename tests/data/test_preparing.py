"""`unitok prepare`: one shard by itself here, and where Apache Beam is installed the whole command."""

import functools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unitok_jax import cli
from unitok_jax.data import records
from unitok_jax.data.preparing import PrepareJob
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError

GOOD, BAD = 7, {"image cannot be decoded": 1, "image missing": 1, "bad JSON line": 1}


@pytest.fixture
def raw(tmp_path):
    """Ten lines: seven pictures, one broken, one missing, one that is no JSON."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(GOOD):
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:40])
    lines = [json.dumps({"image": f"{i}.png", "caption": f"nö {i}"}, ensure_ascii=False) for i in range(GOOD)]
    lines[2:2] = [json.dumps({"image": name, "caption": "x"}) for name in ("broken.png", "none.png")]
    (folder / "set.jsonl").write_text("\n".join([*lines, "{no json"]) + "\n")
    return folder


def job(raw, out, **changes):
    return PrepareJob("jsonl", {"path": str(raw / "set.jsonl")}, str(out), 3, **changes)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_stand_alone_and_bad_records_are_counted(raw, tmp_path):
    made = job(raw, tmp_path / "out")
    assert made.missing() == [0, 1, 2]
    counts = [made.open()(shard) for shard in made.missing()]
    assert sum(counts, Counter()) == made.report() == Counter({"written": GOOD, **BAD})
    pictures = [(raw / f"{i}.png").read_bytes() for i in range(GOOD)]
    for path in raw.iterdir():
        path.unlink()
    source = open_source("arrayrecord", {"path": str(tmp_path / "out")}, "test")
    read = [source[i] for i in range(len(source))]
    assert [r["image"] for r in read] == pictures and [r["caption"] for r in read] == [f"nö {i}" for i in range(GOOD)]
    assert read[2]["id"] == "set.jsonl:5" and "folder" not in read[0]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"written": GOOD, **BAD}


def test_a_killed_job_goes_on_and_ends_as_one_that_was_not(raw, tmp_path):
    whole, part = job(raw, tmp_path / "whole"), job(raw, tmp_path / "part")
    for shard in whole.missing():
        whole.open()(shard)
    part.open()(part.missing()[1])
    assert part.missing() == [0, 2]
    with pytest.raises(UserError, match="shard 0 is not done"):
        part.report()
    for shard in reversed(part.missing()):
        part.open()(shard)
    part.open()(2)  # by two workers at once, as a runner may
    assert part.report() == whole.report()
    assert files(tmp_path / "part") == files(tmp_path / "whole")


def test_too_many_bad_records_fail_the_job(raw, tmp_path):
    rows = [json.dumps({"image": "0.png"})] * 80 + ["{no json"] * 20
    (raw / "set.jsonl").write_text("\n".join(rows) + "\n")
    made = job(raw, tmp_path / "out")
    for shard in made.missing():
        made.open()(shard)
    with pytest.raises(UserError, match=r"20 of 100 examples are bad .*more than --max-bad-share=0.1"):
        made.report()
    assert made.report(max_bad_share=0.2) == Counter({"written": 80, "bad JSON line": 20})


def test_records_must_serve_the_task(raw, tmp_path):
    made = job(raw, tmp_path / "out", task="question")
    for shard in made.missing():
        made.open()(shard)
    with pytest.raises(UserError, match=r"--source: 10 of 10 examples are bad \(8 missing text, .* --max-bad-share"):
        made.report(max_bad_share=1.0)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"written": 0, "missing text": GOOD + 1, "image missing": 1, "bad JSON line": 1}
    with pytest.raises(UserError, match="task"):
        job(raw, tmp_path / "out", task="caption").missing()
    with pytest.raises(UserError, match=r"--task: no task 'captoin'.*caption"):
        job(raw, tmp_path / "other", task="captoin").missing()


def command(raw, out, *more):
    source = ("--source", "jsonl", f"path={raw / 'set.jsonl'}")
    return cli.main(["prepare", *source, "--out", str(out), "--shards", "3", *more])


def test_without_beam_the_command_says_what_is_missing(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "unitok_jax.data.beam_jobs", raising=False)
    assert command(raw, tmp_path / "out") == 2
    assert "pip install 'unitok-jax[beam]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_makes_on_beam_what_shards_by_themselves_are(raw, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    alone = job(raw, tmp_path / "alone")
    for shard in alone.missing():
        alone.open()(shard)
    alone.report()
    assert command(raw, tmp_path / "out") == 0
    assert dict(line.split("\t") for line in capsys.readouterr().out.splitlines()) == {
        "written": str(GOOD),
        **{reason: str(count) for reason, count in BAD.items()},
    }
    assert files(tmp_path / "out") == files(tmp_path / "alone")
    (tmp_path / "out" / records.shard_name(1, 3)).unlink()
    assert command(raw, tmp_path / "out", "--beam", "direct_num_workers=1") == 0
    assert "1 of 3 shards to make" in capsys.readouterr().err
    assert files(tmp_path / "out") == files(tmp_path / "alone")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--runner", "DatflowRunner"), "--runner DatflowRunner: Unexpected pipeline runner"),
        (("--beam", "direct_num_workers=two"), "--beam: argument --direct_num_workers: invalid int value"),
    ],
)
def test_what_beam_does_not_take_is_told_in_one_line(raw, tmp_path, capsys, more, told):
    pytest.importorskip("apache_beam")
    assert command(raw, tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def _failing(text):
    raise UserError(text)


def test_a_workers_mistake_is_told_in_one_line():
    beam_jobs = pytest.importorskip("unitok_jax.data.beam_jobs", exc_type=ImportError)
    with pytest.raises(UserError, match=r"^gs://b: cannot write; free it$"):
        beam_jobs.run_shards(functools.partial(_failing, "gs://b: cannot write; free it"), [0])
