import numpy as np
import pytest
from etils import epath

from unitok_jax.data import records
from unitok_jax.data.example import BadExample
from unitok_jax.data.sources import open_source
from unitok_jax.errors import UserError

RECORD = {
    "caption": "ein Wört",
    "image": b"\x00\xffbytes",
    "codes": [np.arange(6).reshape(2, 3), np.array([300, 2])],
    "nested": {"a": [1, 2.5, None, True], "b": [{"c": b"x"}]},
    "float": np.linspace(0, 1, 3).astype(np.float32),
    "scalar": np.int64(7),
    "empty": np.zeros((0, 4), np.int32),
}


def same(a, b):
    if isinstance(a, np.ndarray):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def test_round_trip():
    back = records.decode(records.encode(RECORD))
    same(RECORD, back)
    assert back["float"].dtype == np.float32


def test_every_cut_is_noticed():
    data = records.encode(RECORD)
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(BadExample, match="record cannot be read"):
            records.decode(data[:length])


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1: 2}, {"$bytes": 3}, {1, 2}])
def test_what_cannot_be_kept(value):
    with pytest.raises(TypeError):
        records.encode({"x": value})


@pytest.mark.parametrize(
    "header",
    [b"[1]", b"7", b"[" * 90_000, b'{"x": {"$array": ["<i4", 3]}}', b'{"x": {"$bytes": "a"}}', b'{"x": {"$array": 1}}',
     b'{"x": {"$array": ["<i4", [-1]]}}', b'{"x": {"$array": [7, [1]]}}', b'{"x": {"$bytes": 1e999}}'],
)  # fmt: skip
def test_a_broken_header_is_a_bad_record(header):
    with pytest.raises(BadExample, match="record cannot be read"):
        records.decode(records.MAGIC + len(header).to_bytes(4, "little") + header)


def test_text_that_is_no_unicode_is_kept():
    assert records.decode(records.encode({"caption": "half \ud800"})) == {"caption": "half \ud800"}


def test_object_arrays_are_never_read():
    header = b'{"x": {"$array": ["|O", [1]]}}'
    with pytest.raises(BadExample):
        records.decode(records.MAGIC + len(header).to_bytes(4, "little") + header + b"\0" * 8)


@pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_codes_take_the_smallest_dtype(largest, dtype):
    assert records.smallest(np.array([[0, largest]])).dtype == dtype
    with pytest.raises(ValueError, match="at least 0"):
        records.smallest(np.array([-1]))


@pytest.mark.parametrize(("total", "shards"), [(10, 3), (2, 4), (7, 1)])
def test_spans_cover_every_record_once(total, shards):
    spans = [records.shard_span(total, shards, shard) for shard in range(shards)]
    assert [i for span in spans for i in span] == list(range(total))


def write(folder, shard, total=10, shards=3):
    span = records.shard_span(total, shards, shard)
    return records.write_shard(folder, shard, shards, ({"n": i, "codes": np.array([i, 9])} for i in span))


def test_a_killed_job_goes_on(tmp_path):
    folder = str(tmp_path / "codes")
    meta = {"system": "unitoken", "total": 10, "grid": (2, 2)}
    assert records.start_shards(folder, meta, 3) == [0, 1, 2]
    write(folder, 1)

    def killed():
        yield {"n": 0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_shard(folder, 0, 3, killed())
    with pytest.raises(UserError, match="1 of 3 shards"):
        open_source("arrayrecord", {"path": folder}, "here")
    assert records.start_shards(folder, meta, 3) == [0, 2]
    assert write(folder, 0) + write(folder, 2) == 7
    assert records.start_shards(folder, meta, 3) == []
    source = open_source("arrayrecord", {"path": folder}, "here")
    assert [source[i]["n"] for i in range(len(source))] == list(range(10))
    assert source[5]["codes"].dtype == np.uint8
    assert not list(tmp_path.glob("codes/*.part"))


def test_another_jobs_folder_is_refused(tmp_path):
    records.start_shards(str(tmp_path), {"system": "unitoken"}, 3)
    for meta, shards, key in (({"system": "tar"}, 3, "system"), ({"system": "unitoken"}, 4, "shards")):
        with pytest.raises(UserError, match=f"another {key}"):
            records.start_shards(str(tmp_path), meta, shards)


def test_shards_may_go_to_a_bucket(bucket):
    """Reading them back is ArrayRecord's own affair: its C++ reader knows buckets, not fsspec's memory."""
    assert records.start_shards(f"{bucket}/codes", {"system": "u"}, 2) == [0, 1]
    write(f"{bucket}/codes", 0, shards=2)
    assert records.start_shards(f"{bucket}/codes", {"system": "u"}, 2) == [1]
    assert [path.name for path in epath.Path(f"{bucket}/codes").iterdir() if path.suffix == ".part"] == []
