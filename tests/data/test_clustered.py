"""The released sampler's batches: groups apart, lengths near, bad examples in their place, one length a batch."""

import json

import numpy as np
import pytest

from unitok_jax.data import clustered
from unitok_jax.data.batches import train_batches
from unitok_jax.data.clustered import WINDOW, Collection, epoch_order
from unitok_jax.data.example import IMAGE, BadExample
from unitok_jax.data.lengths import Measure, record_lengths
from unitok_jax.data.pipeline import open_entries
from unitok_jax.data.records import write_shard
from unitok_jax.data.rows import ExampleRow, RowSpec
from unitok_jax.data.settings import DataSettings
from unitok_jax.errors import UserError

SPEC = RowSpec(40, lengths=(12, 20), added=2)


def lengths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, count)


def test_an_epoch_draws_each_record_at_most_once_and_groups_never_mix():
    collections = [Collection(lengths(50)), Collection(lengths(31, 1), 0.5), Collection(lengths(20, 2), 1.0, "text")]
    order = epoch_order(collections, seed=1, batch=4, accumulate=2)
    assert len(set(order)) == len(order) == (50 + 15) // 8 * 8 + 20 // 8 * 8
    text = (order >= 81).reshape(-1, 8)
    assert (text.all(axis=1) | ~text.any(axis=1)).all()
    assert (epoch_order(collections, 1, 4, 2) == order).all() and (epoch_order(collections, 2, 4, 2) != order).any()


def test_a_batch_lies_within_one_window_of_the_sorted_lengths():
    collection = Collection(lengths(2 * WINDOW + 100))
    batches = epoch_order([collection], seed=0, batch=1).reshape(-1)
    rank = np.argsort(np.argsort(collection.lengths, kind="stable"))
    assert sorted(batches) == list(range(2 * WINDOW + 100))
    two = epoch_order([collection], seed=0, batch=2).reshape(-1, 2)
    windows = rank[two] // (2 * WINDOW)
    assert (windows[:, 0] == windows[:, 1]).all()


def write(path, sizes):
    path.write_text("".join(json.dumps({"text": str(size), "len": size}) + "\n" for size in sizes))


def layout(example, rng):
    """As many positions as the text says, and one more; 7 is bad."""
    size = int(example.turns[-1].text)
    if size == 7:
        raise BadExample("other", example.id)
    zeros = np.zeros(size + 1, np.int32)
    return ExampleRow(zeros + size, zeros, zeros.astype(np.float32), zeros.astype(np.int8), zeros, example.task)


def settings(path, order="clustered", **entry):
    train = ({"kind": "jsonl", "path": str(path), "task": "text", **entry},)
    return DataSettings(train, order=order, prefetch=0, max_bad_share=0.9)


@pytest.mark.parametrize("rows", [None, (1, 0)])
def test_batches_take_the_least_length_that_holds_their_records(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(clustered, "WINDOW", 1)  # so few records would otherwise all lie in one window
    write(tmp_path / "a.jsonl", [*range(3, 19), *range(24, 36)])
    batches = train_batches(settings(tmp_path / "a.jsonl"), SPEC, layout, batch_size=2, seed=0, rows=rows)
    seen, widths = [], set()
    for _ in range(14):
        batch, info = next(batches)
        held, width = batch["tokens"][:, 0], batch["tokens"].shape[1]
        seen += held.tolist()
        widths.add(width)
        assert width == next(length for length in (12, 20, 40) if length >= held.max() + 2)
        assert ((batch["segments"] > 0).sum(axis=1) == np.where(held, held + 1, 0)).all()
        assert len(set(info.cursors.tolist())) == 1  # a bad example leaves its line empty, and no row runs ahead
    assert widths == {12, 20, 40}
    assert sorted(seen) == [0, *range(3, 7), *range(8, 19), *range(24, 36)]


def test_a_restart_goes_on_exactly(tmp_path):
    write(tmp_path / "a.jsonl", range(1, 30))
    make = lambda **state: train_batches(settings(tmp_path / "a.jsonl"), SPEC, layout, batch_size=4, seed=5, **state)  # noqa: E731
    first = make()
    for _ in range(9):
        next(first)
    again = make(cursors=first.cursors, skipped=first.skipped)
    for _ in range(5):
        for ours, theirs in zip(next(first)[0].items(), next(again)[0].items(), strict=True):
            np.testing.assert_array_equal(ours[1], theirs[1], err_msg=ours[0])


def test_a_record_longer_than_it_says_is_skipped_by_name(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "30", "len": 5}) + "\n")
    batches = train_batches(settings(tmp_path / "a.jsonl"), SPEC, layout, batch_size=1, seed=0)
    batch, info = next(batches)
    assert not batch["segments"].any() and info.skipped.sum() == 1


def test_what_records_do_not_tell_is_measured_once_and_kept(tmp_path):
    """Of JSONL and of shards, without opening a picture; another measure, entry or file is measured anew."""
    records = [{"image": "gone.png", "caption": "x" * n} for n in range(1, 7)] + [{"image": "gone.png"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + "no record\n")
    shards = [{**record, "image": b"broken", "codes": [np.zeros(3, np.uint8)]} for record in records[:6]]
    write_shard(str(tmp_path), 0, 1, shards)
    seen = []

    def length(example):
        assert len(example.images) == 1
        seen.append(example.id)
        return len(example.turns[-1].text) + len(example.turns[0].text)

    def find(path, key="a", prompts=("", "12345"), **entry):
        (source,) = open_entries([{"path": str(path), "task": "caption", "prompts": prompts, **entry}], "here")
        seen.clear()
        return record_lengths(source, "here", Measure(length, key), str(tmp_path / "index")).tolist()

    symbol = len(IMAGE)
    told = [symbol + 5 + n for n in range(1, 7)]  # under the longest prompt
    assert find(tmp_path / "a.jsonl", kind="jsonl") == [*told, 0, 0] and seen
    assert find(tmp_path / "a.jsonl", kind="jsonl") == [*told, 0, 0] and not seen
    assert find(tmp_path / "a.jsonl", kind="jsonl", key="b") and seen
    assert find(tmp_path / "a.jsonl", kind="jsonl", prompts=("1",))[0] == symbol + 2 and seen
    assert find(tmp_path, kind="arrayrecord") == told and seen
    (tmp_path / "records-00000-of-00001.arrayrecord.headers").unlink()
    assert find(tmp_path, kind="arrayrecord", key="c") == told  # of the shards themselves
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"len": 99}) + "\n")
    assert find(tmp_path / "a.jsonl", kind="jsonl") == [*told, 0, 0, 99]


def test_groups_need_no_lengths(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(8, 14)))
    batches = train_batches(settings(tmp_path / "a.jsonl", "grouped"), SPEC, layout, batch_size=2, seed=0)
    held = [next(batches)[0] for _ in range(3)]
    assert sorted(int(n) for batch in held for n in batch["tokens"][:, 0]) == list(range(8, 14))
    assert {batch["tokens"].shape[1] for batch in held} == {40}  # which example is how long is not known
    with pytest.raises(UserError, match="this stage does not measure it"):
        train_batches(settings(tmp_path / "a.jsonl"), SPEC, layout, batch_size=2, seed=0)


def test_mistakes_are_named(tmp_path):
    write(tmp_path / "a.jsonl", range(1, 9))
    with pytest.raises(UserError, match=r"train\[0\]: record 0 has no number in 'size'"):
        train_batches(settings(tmp_path / "a.jsonl", length="size"), SPEC, layout, batch_size=1, seed=0)
    with pytest.raises(UserError, match="no group has 9 records"):
        train_batches(settings(tmp_path / "a.jsonl"), SPEC, layout, batch_size=9, seed=0)
    with pytest.raises(UserError, match="one example in a row, but the stage packs"):
        train_batches(settings(tmp_path / "a.jsonl"), RowSpec(40, pack=True), layout, batch_size=1, seed=0)
    with pytest.raises(UserError, match="no order 'cluster'"):
        settings(tmp_path / "a.jsonl", order="cluster")
    with pytest.raises(UserError, match="ratio: expected a share"):
        train_batches(settings(tmp_path / "a.jsonl", ratio=2.0), SPEC, layout, batch_size=1, seed=0)
