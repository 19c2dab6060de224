import functools
import io
import logging
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiny_system import TinySystem

from unitok_jax.data import records
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.inference.tokenize import encode_shard, tokenize_source

IMAGES = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
META = {"system": "tiny", "weights": "abc"}


@pytest.fixture(scope="module")
def pipeline():
    system = TinySystem()
    return Pipeline(system, system.params(), InferenceSettings(batch_size=2))


@pytest.fixture
def source(tmp_path):
    """Arrays, encoded bytes and paths; a pair of pictures; two bad records."""
    png = io.BytesIO()
    Image.fromarray(IMAGES[3]).save(png, "PNG")
    Image.fromarray(IMAGES[4]).save(tmp_path / "four.png")
    made = [{"image": IMAGES[i], "caption": f"no {i}"} for i in range(3)]
    made += [{"image": png.getvalue(), "label": 3}, {"image": "four.png", "folder": str(tmp_path)}]
    made += [{"image": IMAGES[5], "target": IMAGES[6]}, {"image": b"broken"}, {"caption": "none"}]
    made += [{"images": [IMAGES[7], IMAGES[8]], "conversations": [{"from": "human", "value": "<image><image>"}]}]
    return made


def test_a_record_that_cannot_be_kept_is_skipped(pipeline, tmp_path):
    odd = [{"image": IMAGES[0], "$key": 1}, {"image": IMAGES[1], "when": object()}, {"image": "a\0b"}]
    counts = tokenize_source(pipeline, [*odd, {"image": IMAGES[2]}], str(tmp_path / "out"), META, shards=1)
    assert counts == Counter({"written": 1, "record cannot be read": 2, "image missing": 1})


def test_too_many_bad_records_stop_the_job(pipeline, tmp_path):
    """After 100 records; the shard that is being written does not appear."""
    source = [{"image": IMAGES[i % 9]} if i % 5 else {"image": b"broken"} for i in range(120)]
    with pytest.raises(
        UserError, match=r"--source: 2\d of 1\d\d examples are bad \(2\d image cannot be decoded\), more than"
    ):
        tokenize_source(pipeline, source, str(tmp_path / "out"), META, shards=2)
    assert [path.name for path in (tmp_path / "out").glob("*.arrayrecord")] == [records.shard_name(0, 2)]
    counts = tokenize_source(pipeline, source, str(tmp_path / "out"), META, shards=2, max_bad_share=0.25)
    assert counts["written"] == 96, "those of the first run, too"


def _read_all(folder):
    shards = open_source("arrayrecord", {"path": str(folder)}, "test")
    return [shards[i] for i in range(len(shards))]


def test_shards_hold_the_codes_of_every_picture(pipeline, source, tmp_path, caplog):
    told = []
    with caplog.at_level(logging.WARNING):
        counts = tokenize_source(
            pipeline, source, str(tmp_path / "out"), META, shards=2, progress=lambda *x: told.append(x)
        )
    assert counts == Counter({"written": 7, "image cannot be decoded": 1, "image missing": 1})
    assert "skipped record 6" in caplog.text and "skipped record 7" in caplog.text
    assert told[-1] == (9, 9)
    read = _read_all(tmp_path / "out")
    expected = pipeline.encode(IMAGES).codes[:, 0]
    np.testing.assert_array_equal(np.concatenate([np.stack(r["codes"]) for r in read]), expected)
    assert [len(r["codes"]) for r in read] == [1, 1, 1, 1, 1, 2, 2]
    assert read[1]["caption"] == "no 1" and read[3]["label"] == 3 and read[0]["codes"][0].dtype == np.uint8
    np.testing.assert_array_equal(read[0]["image"], IMAGES[0])
    assert isinstance(read[4]["image"], bytes) and "folder" not in read[4]


def test_one_shard_is_one_function(pipeline, source, tmp_path):
    """What Beam is given: made out of their order, the shards are those of the whole command."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    counts = tokenize_source(pipeline, source, str(whole), META, shards=2)
    out.mkdir()
    encode = functools.partial(encode_shard, pipeline, source, str(out), 2, True)
    assert encode(1) + encode(0) == counts
    for shard in range(2):
        name = records.shard_name(shard, 2)
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_pictures_can_be_left_out(pipeline, source, tmp_path):
    tokenize_source(pipeline, source[:3], str(tmp_path / "out"), META, shards=1, keep_pictures=False)
    assert all("image" not in r and len(r["codes"]) == 1 for r in _read_all(tmp_path / "out"))


def test_a_killed_job_goes_on_and_processes_share_the_shards(pipeline, source, tmp_path):
    class Dying(list):
        def __getitem__(self, index):
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    whole, out = tmp_path / "whole", tmp_path / "out"
    tokenize_source(pipeline, source, str(whole), META, shards=3)
    with pytest.raises(KeyboardInterrupt):
        tokenize_source(pipeline, Dying(source), str(out), META, shards=3)
    assert records.start_shards(str(out), {**META, "records": 9, "pictures": True}, 3) == [1, 2]
    counts = [tokenize_source(pipeline, source, str(out), META, shards=3, process=(i, 2)) for i in (0, 1)]
    assert sum(counts, Counter()) == Counter({"written": 7, "image cannot be decoded": 1, "image missing": 1})
    for shard in range(3):
        name = records.shard_name(shard, 3)
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(UserError, match="weights"):
        tokenize_source(pipeline, source, str(out), {**META, "weights": "other"}, shards=3)
