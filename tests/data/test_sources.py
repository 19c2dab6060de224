import io
import json
import os
import pickle
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from PIL import Image

from unitok_jax.data import records, sources
from unitok_jax.data.example import BadExample
from unitok_jax.data.settings import read_entry
from unitok_jax.data.tasks import to_example
from unitok_jax.errors import UserError


def open_source(kind, **options):
    return sources.open_source(kind, options, "config.data.train[0]")


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def test_kinds_are_the_files():
    files = "arrayrecord digit_edits digit_scenes digits folder jsonl llava memory tfds webdataset"
    assert sources.kinds() == tuple(files.split())


def test_memory():
    source = open_source("memory", records=[{"text": "a"}, {"text": "b"}])
    assert [source[i]["text"] for i in range(len(source))] == ["a", "b"]


def test_memory_that_holds_no_records():
    source = open_source("memory", records=["text", {"text": "b"}])
    with pytest.raises(BadExample, match="memory:0: a str, not a record"):
        source[0]
    assert source[1] == {"text": "b"}


def test_jsonl_reads_any_line_and_names_the_broken(tmp_path):
    lines = [
        '{"caption": "ä one"}',
        "",
        '{"caption": "two", "id": "own"}',
        "{broken",
        '["list"]',
        '{"caption": "last"}',
        "[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = pickle.loads(pickle.dumps(open_source("jsonl", path=str(tmp_path / "a.jsonl"))))
    assert len(source) == 6
    assert source[4] == {"id": "a.jsonl:6", "caption": "last", "folder": str(tmp_path)}
    assert source[1]["id"] == "own"
    assert source[0]["caption"] == "ä one"
    for index, line in ((2, 4), (3, 5), (5, 7)):
        with pytest.raises(BadExample, match=f"bad JSON line: a.jsonl:{line}"):
            source[index]


def test_jsonl_and_its_pictures_may_lie_in_a_bucket(bucket):
    root = epath.Path(bucket) / "set"
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(png("red"))
    (root / "a.jsonl").write_text('{"image": "a.png", "caption": "x"}\n')
    record = open_source("jsonl", path=f"{bucket}/set/a.jsonl")[0]
    example = to_example("caption", record, (), np.random.default_rng(0))
    assert example.images[0][0, 0].tolist() == [255, 0, 0]


def test_webdataset_may_lie_in_a_bucket(bucket, tmp_path):
    tar(tmp_path / "s-0.tar", [("1.txt", b"one"), ("2.txt", b"two")])
    (epath.Path(bucket) / "x").mkdir(parents=True)
    (epath.Path(bucket) / "x" / "s-0.tar").write_bytes((tmp_path / "s-0.tar").read_bytes())
    source = open_source("webdataset", path=f"{bucket}/x/*.tar", index=f"{bucket}/index")
    assert [source[i]["caption"] for i in range(len(source))] == ["one", "two"]
    assert (epath.Path(bucket) / "index" / "s-0.tar.index.json").exists()


def test_jsonl_that_shrank(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"caption": "one"}\n{"caption": "two"}\n')
    source = open_source("jsonl", path=str(path))
    path.write_text('{"caption": "one"}\n')
    with pytest.raises(BadExample, match="record cannot be read"):
        source[1]


def test_folder_of_pictures(tmp_path):
    """In the order of their names; folders are classes; what is no picture is passed over."""
    for name in ("b/2.PNG", "b/1.png", "a/x/3.png", "top.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "b" / "notes.txt").write_text("")
    source = pickle.loads(pickle.dumps(open_source("folder", path=str(tmp_path))))
    read = [(source[i]["id"], source[i].get("label")) for i in range(len(source))]
    assert read == [("a/x/3.png", 0), ("b/1.png", 1), ("b/2.PNG", 1), ("top.png", None)]
    example = to_example("image", source[0], (), np.random.default_rng(0))
    assert example.images[0].shape == (4, 6, 3)
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(png("blue"))  # a name that is no UTF-8
    source = pickle.loads(pickle.dumps(open_source("folder", path=str(tmp_path))))
    (odd,) = (source[i] for i in range(len(source)) if source[i]["id"].startswith("caf"))
    assert to_example("image", odd, (), np.random.default_rng(0)).images[0][0, 0].tolist() == [0, 0, 255]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no pictures .* below .*/empty"):
        open_source("folder", path=str(tmp_path / "empty"))


def test_llava(tmp_path):
    items = [{"id": "x", "image": "a.png", "conversations": [{"from": "human", "value": "<image>hé"}]}, 7, {"b": 1}]
    (tmp_path / "l.json").write_text(json.dumps(items))
    (tmp_path / "pictures").mkdir()
    source = open_source("llava", path=str(tmp_path / "l.json"), images=str(tmp_path / "pictures"))
    assert len(source) == 3
    assert source[0] == {**items[0], "folder": str(tmp_path / "pictures")}
    assert source[2]["id"] == "l.json[2]"
    with pytest.raises(BadExample, match=r"l.json\[1\]: not an object"):
        source[1]


@pytest.mark.parametrize(
    ("text", "message"), [("[1,", "is not JSON"), ("[" * 90_000, "is not JSON"), ('{"a": 1}', "expected a JSON list")]
)
def test_llava_that_is_no_list(tmp_path, text, message):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source("llava", path=str(tmp_path / "l.json"))


@pytest.mark.parametrize("kept", [False, True])
def test_webdataset(tmp_path, kept):
    tar(tmp_path / "s-0.tar", [("a/1.png", png("red")), ("a/1.txt", b"red one\n"), ("a/1.cls", b"3"), ("x.bin", b"?")])
    extra = json.dumps({"caption": "in json", "n": 5}).encode()
    tar(tmp_path / "s-1.tar", [("2.txt", b"wins"), ("2.json", extra), ("2.JPG", png("blue")), ("3.json", b"{bad")])
    options = {"path": str(tmp_path / "s-*.tar")} | ({"index": str(tmp_path / "index")} if kept else {})
    for _ in range(2):  # the second time from the kept index
        source = open_source("webdataset", **options)
        assert len(source) == 3
        assert source[0] == {"id": "s-0.tar/a/1", "image": png("red"), "caption": "red one", "label": "3"}
        assert to_example("image", source[0], (), np.random.default_rng(0)).label == 3
        assert source[1] == {"id": "s-1.tar/2", "image": png("blue"), "caption": "wins", "n": 5}
        with pytest.raises(BadExample, match=r"bad JSON line: s-1.tar/3.json"):
            source[2]
    assert (tmp_path / "index").exists() == kept


def test_webdataset_index_of_a_changed_shard_is_made_anew(tmp_path):
    options = {"path": str(tmp_path / "s.tar"), "index": str(tmp_path)}
    tar(tmp_path / "s.tar", [("1.txt", b"one")])
    assert len(open_source("webdataset", **options)) == 1
    tar(tmp_path / "s.tar", [(f"{i}.txt", b"x" * 999) for i in range(30)])
    assert len(open_source("webdataset", **options)) == 30


@pytest.mark.parametrize("cut", [700, 1800, 2100, 2560])
def test_webdataset_that_is_cut_short(tmp_path, cut, caplog):
    """In the first file's text, the second's header, its text, and before the end mark: what came whole is read."""
    tar(tmp_path / "whole.tar", [("1.txt", b"1" * 900), ("2.txt", b"2" * 500)])
    (tmp_path / "s.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:cut])
    source = open_source("webdataset", path=str(tmp_path / "s.tar"))
    assert "s.tar is cut short or broken after" in caplog.text
    read = []
    for index in range(len(source)):
        try:
            read.append(source[index]["caption"][0])
        except BadExample as error:
            assert f"s.tar/{index + 1}" in error.detail or "s.tar" in error.detail
            read.append("bad")
    assert read == {700: ["bad"], 1800: ["1"], 2100: ["1", "bad"], 2560: ["1", "2"]}[cut]


def test_webdataset_whose_kept_index_is_broken(tmp_path):
    tar(tmp_path / "s.tar", [("1.txt", b"one")])
    for broken in ("{", "[]", '{"bytes": 10240, "records": 3}'):
        (tmp_path / "s.tar.index.json").write_text(broken)
        assert len(open_source("webdataset", path=str(tmp_path / "s.tar"), index=str(tmp_path))) == 1


def test_webdataset_that_is_no_tar(tmp_path):
    (tmp_path / "s.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="no uncompressed tar"):
        open_source("webdataset", path=str(tmp_path / "s.tar"))


def test_arrayrecord_survives_pickling(tmp_path):
    records.write_shard(str(tmp_path), 0, 1, [{"caption": f"c{i}", "image": png("red")} for i in range(5)])
    source = pickle.loads(pickle.dumps(open_source("arrayrecord", path=str(tmp_path))))
    assert [source[i]["caption"] for i in range(len(source))] == [f"c{i}" for i in range(5)]
    assert source[3]["image"] == png("red")
    assert source[3]["id"].endswith(":3")


def test_arrayrecord_of_others_is_bad(tmp_path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "o.arrayrecord"), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(BadExample, match="not a record of unitok"):
        open_source("arrayrecord", path=str(tmp_path))[0]


@pytest.mark.parametrize("content", [b"", b"hello" * 30_000])
def test_arrayrecord_that_is_none(tmp_path, content):
    (tmp_path / "o.arrayrecord").write_bytes(content)
    with pytest.raises(UserError, match=r"arrayrecord: .*Copy it, or run 'unitok tokenize', again") as told:
        open_source("arrayrecord", path=str(tmp_path))
    assert "\n" not in str(told.value)


def test_arrayrecord_with_a_damaged_chunk(tmp_path):
    """Bytes changed in the middle of a large shard: the records beside them are read, those in them are bad."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 20_000), dtype=np.uint8)
    records.write_shard(str(tmp_path), 0, 1, [{"caption": f"c{i}", "blob": noise[i].tobytes()} for i in range(40)])
    (shard,) = tmp_path.glob("*.arrayrecord")
    content = bytearray(shard.read_bytes())
    content[200_000:200_300] = bytes(300)
    shard.write_bytes(content)
    source, bad = open_source("arrayrecord", path=str(tmp_path)), []
    for index in range(40):
        try:
            assert source[index]["caption"] == f"c{index}"
        except BadExample as error:
            assert f"{tmp_path}:{index}" in error.detail
            bad.append(index)
    assert 1 <= len(bad) <= 3


def test_tfds_that_cannot_decode_a_record(monkeypatch):
    class Rows(list):
        def __getitem__(self, index):
            if index == 1:
                raise RuntimeError("Only JPEG is supported")
            return super().__getitem__(index)

    tfds = SimpleNamespace(data_source=lambda name, split, data_dir: Rows([{"n": 1}, {"n": 2}]))
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", tfds)
    source = open_source("tfds", name="own")
    assert source[0]["n"] == 1
    with pytest.raises(BadExample, match="record cannot be read: own/train:1: Only JPEG"):
        source[1]


def test_tfds_through_its_mock():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=4):
        source = open_source("tfds", name="mnist", split="train")
        assert len(source) == 4
        assert source[1]["image"].shape == (28, 28, 1)
        assert source[1]["id"] == "mnist/train:1"


def test_tfds_text_becomes_str(monkeypatch):
    rows = [{"title": "né".encode(), "captions": np.array([b"a", b"b"], object), "label": np.int64(2)}]
    tfds = SimpleNamespace(data_source=lambda name, split, data_dir: rows)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", tfds)
    assert open_source("tfds", name="own")[0] == {
        "id": "own/train:0",
        "title": "né",
        "captions": ["a", "b"],
        "label": 2,
    }


def test_tfds_that_is_not_there():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="cannot open 'mnst'"):
        open_source("tfds", name="mnst")


@pytest.mark.parametrize("kind", ["folder", "jsonl", "llava", "webdataset", "arrayrecord"])
def test_missing_files_are_named(kind):
    with pytest.raises(UserError, match="/nowhere/x"):
        open_source(kind, path="/nowhere/x")


@pytest.mark.parametrize("kind", ["jsonl", "llava", "webdataset"])
def test_a_folder_in_the_place_of_a_file(tmp_path, kind):
    with pytest.raises(UserError, match=r"train\[0\]: .*cannot be read \(Is a directory\)"):
        open_source(kind, path=str(tmp_path))


def test_globs_without_a_file_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file matches .*\*\.tar"):
        open_source("webdataset", path=str(tmp_path / "*.tar"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "jsnl", "task": "caption"}, "no kind of source 'jsnl'. Did you mean jsonl"),
        ({"kind": "digits", "task": "captoin"}, "no task 'captoin'. Did you mean caption"),
        ({"kind": "digits", "task": "caption", "wieght": 2}, r"train\[0\].wieght: no such key. Did you mean weight"),
        ({"kind": "digits", "task": "caption", "splt": "train"}, "splt: no such key. Did you mean split"),
        ({"kind": "digits", "task": "caption", "weight": 0}, "weight: expected a positive number"),
        ({"task": "caption"}, "kind: missing"),
        ({"kind": "digits"}, "task: missing"),
    ],
)
def test_mistakes_in_an_entry(entry, message):
    with pytest.raises(UserError, match=message):
        read_entry(entry, "config.data.train[0]")
