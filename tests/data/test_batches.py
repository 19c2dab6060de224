import json
import logging
from collections import Counter

import data_toys as toys
import numpy as np
import pytest
from PIL import Image

from unitok_jax.data import pipeline
from unitok_jax.data.bad_share import by_reason
from unitok_jax.data.batches import train_batches, validation_batches
from unitok_jax.data.example import REASONS
from unitok_jax.data.row_streams import RowStream, Shape
from unitok_jax.errors import UserError

B = 4
DIGITS = {"kind": "digits", "task": "caption"}
TEXTS = {"kind": "memory", "task": "text", "records": toys.texts(30)}
BROKEN = {"kind": "memory", "task": "text", "records": [*toys.texts(9, "g"), {"text": ""}]}
MIXTURE = [DIGITS, {"kind": "digits", "task": "generate", "weight": 2.0}, TEXTS, BROKEN]


def start(pack=True, train=MIXTURE, batch_size=B, seed=7, options=None, **state):
    settings = toys.settings(train, **(options or {}))
    return train_batches(settings, toys.spec(64, pack=pack), toys.layout, batch_size=batch_size, seed=seed, **state)


def take(batches, count):
    """Digests of the next batches, and their infos."""
    pairs = [next(batches) for _ in range(count)]
    batches.close()
    return [toys.digest(batch) for batch, _ in pairs], [info for _, info in pairs]


@pytest.fixture(scope="module")
def reference():
    """Ten batches of the mixture, made in the plainest way, packed and not."""
    return {pack: take(start(pack), 10) for pack in (False, True)}


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("processes", [2, 4])
def test_any_process_count_makes_the_same_global_batches(reference, pack, processes):
    mine = [start(pack, rows=range(p * B // processes, (p + 1) * B // processes)) for p in range(processes)]
    digests, infos = reference[pack]
    for step in range(10):
        parts = [next(batches) for batches in mine]
        whole = {
            name: np.concatenate([part[name] for part, _ in parts])
            if not isinstance(parts[0][0][name], dict)
            else {view: np.concatenate([part[name][view] for part, _ in parts]) for view in parts[0][0][name]}
            for name in parts[0][0]
        }
        assert toys.digest(whole) == digests[step]
        np.testing.assert_array_equal(np.concatenate([info.cursors for _, info in parts]), infos[step].cursors)
        np.testing.assert_array_equal(np.concatenate([info.skipped for _, info in parts]), infos[step].skipped)


def test_rows_in_any_order_and_twice(reference):
    batch, info = next(start(rows=[3, 1, 1]))
    whole, _ = next(start())
    np.testing.assert_array_equal(batch["tokens"], whole["tokens"][[3, 1, 1]])
    np.testing.assert_array_equal(info.cursors, reference[True][1][0].cursors[[3, 1, 1]])


@pytest.mark.parametrize("pack", [False, True])
def test_resume_after_every_step_is_exact(reference, pack):
    digests, infos = reference[pack]
    for step in range(9):
        again = start(pack, cursors=infos[step].cursors, skipped=infos[step].skipped)
        rest, rest_infos = take(again, min(3, 9 - step))
        assert rest == digests[step + 1 : step + 1 + len(rest)]
        np.testing.assert_array_equal(rest_infos[-1].cursors, infos[step + len(rest)].cursors)
        np.testing.assert_array_equal(rest_infos[-1].skipped, infos[step + len(rest)].skipped)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_prefetching_changes_nothing(reference, workers):
    digests, infos = reference[True]
    state = {"cursors": infos[1].cursors, "skipped": infos[1].skipped}
    found, found_infos = take(start(options={"workers": workers, "prefetch": 3}, **state), 5)
    assert found == digests[2:7]
    for ours, expected in zip(found_infos, infos[2:7], strict=True):
        np.testing.assert_array_equal(ours.cursors, expected.cursors)
        np.testing.assert_array_equal(ours.skipped, expected.skipped)


def test_state_of_the_iterator_is_that_of_its_last_batch():
    batches = start(options={"prefetch": 4})
    _, info = next(batches)
    assert batches.cursors is info.cursors
    batches.close()


def test_another_seed_gives_other_batches(reference):
    assert take(start(seed=8), 1)[0] != reference[True][0][:1]


def test_every_element_is_read_once():
    shape = Shape(toys.spec(), False, 5, seed=3)
    streams = [RowStream([], shape, row, 0, np.zeros(len(REASONS), np.int64)) for row in range(5)]
    read = []
    for turn in range(20):
        for stream in streams:
            stream.cursor = turn
            read.append(stream._index())
    assert sorted(read) == list(range(100))


def test_weights_are_met_exactly_and_epochs_are_whole():
    records = pipeline.open_entries([{**TEXTS, "weight": 3.0}, {**BROKEN, "weight": 1.0}], "config.data.train")
    stream = pipeline.mixture(records, seed=0)
    first = [stream[i] for i in range(120)]
    names = [item[1]["id"] if not isinstance(item, pipeline.Skipped) else "bad" for item in first]
    assert sum(name.startswith("t") for name in names) == 90
    assert set(Counter(name for name in names if name.startswith("t")).values()) == {3}  # three epochs of 30
    epochs = [[name for name in names if name.startswith("t")][30 * e : 30 * e + 30] for e in range(3)]
    assert epochs[0] != epochs[1]
    drawn = [item[1]["drawn"] for item, name in zip(first, names, strict=True) if name.startswith("t")]
    assert sorted(drawn) == [(epoch, number) for epoch in range(3) for number in range(30)]


@pytest.mark.parametrize("size", [1, 7, 300])
def test_an_epoch_has_every_record_once(size, monkeypatch):
    monkeypatch.setattr(pipeline, "LISTED", 9)  # so that the largest goes through the cipher
    stream = pipeline.Epochs(range(size), seed=2**32 - 1)
    first, second = ([stream[e * size + i] for i in range(size)] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(size))
    assert size == 1 or first != second


def test_packing_does_not_shift_the_mixture():
    """Rows of short examples must not draw more than their weight."""
    short = {"kind": "memory", "task": "text", "records": [{"text": "s"}]}
    long = {"kind": "memory", "task": "text", "records": [{"text": "long " * 11}]}
    batches = start(train=[short, long], batch_size=2)
    lengths = Counter()
    for _ in range(200):
        batch, _ = next(batches)
        for segments in batch["segments"]:
            lengths.update((np.bincount(segments)[1:] > 10).tolist())
    share = lengths[True] / lengths.total()
    assert abs(share - 0.5) < 0.03


def test_prompts_are_drawn_anew_every_epoch():
    one = {"kind": "memory", "task": "generate", "prompts": ["A {caption}", "B {caption}"]}
    picture = np.zeros((8, 8, 3), np.uint8)
    batches = start(train=[{**one, "records": [{"image": picture, "caption": "x"}]}], pack=False, batch_size=1)
    assert {chr(next(batches)[0]["tokens"][0, 0]) for _ in range(20)} == {"A", "B"}


def test_validation_reads_every_example_once_and_pads():
    settings = toys.settings([TEXTS], validation={"text": [TEXTS, {**TEXTS, "records": toys.texts(4, "v")}]})
    batches = validation_batches(settings, "text", toys.spec(), toys.layout, batch_size=8, seed=0)
    seen, count = [], 0
    for batch, _ in batches:
        count += 1
        for tokens, segments, weights in zip(batch["tokens"], batch["segments"], batch["loss_weights"], strict=True):
            assert set(segments) <= {0, 1}
            assert not weights[segments == 0].any()
            if segments.any():
                seen.append(bytes(tokens[segments > 0][:-2].astype(np.uint8)).decode().split()[0])
    assert count == batches.count == 5
    assert sorted(seen) == sorted([f"t{i}" for i in range(30)] + [f"v{i}" for i in range(4)])


def test_validation_has_as_many_batches_on_every_process():
    bad = [{"text": ""} if i % 3 else record for i, record in enumerate(toys.texts(21))]
    settings = toys.settings(validation={"v": [{**TEXTS, "records": bad}]}, max_bad_share=1.0)
    counts = []
    for rows in ([0], [1, 2], [3]):
        batches = validation_batches(settings, "v", toys.spec(), toys.layout, batch_size=4, seed=0, rows=rows)
        counts.append(len(list(batches)))
    assert counts == [6, 6, 6]


@pytest.fixture
def folder(tmp_path):
    """A JSONL with one bad record of each kind among ninety good ones."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    lines = [json.dumps({"image": "good.png", "caption": f"c{i}"}) for i in range(90)]
    lines += [
        "{broken",
        json.dumps({"image": "good.png", "caption": ""}),
        json.dumps({"image": "gone.png", "caption": "x"}),
        json.dumps({"image": "cut.png", "caption": "x"}),
        json.dumps({"image": "good.png", "caption": "long " * 50}),
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_bad_examples_are_skipped_counted_and_named(folder, caplog):
    entry = {"kind": "jsonl", "task": "caption", "path": str(folder / "set.jsonl"), "prompts": ["?"]}
    settings = toys.settings(validation={"v": [entry]})
    with caplog.at_level(logging.WARNING):
        batches = validation_batches(settings, "v", toys.spec(), toys.layout, batch_size=5, seed=0)
        assert sum(int((batch["segments"].max(1) > 0).sum()) for batch, _ in batches) == 90
    assert by_reason(batches.skipped.sum(0)) == {
        "bad JSON line": 1,
        "missing text": 1,
        "image missing": 1,
        "image cannot be decoded": 1,
        "longer than the row": 1,
    }
    for name in ("set.jsonl:91", "set.jsonl:92", "gone.png", "cut.png", "longer than the row"):
        assert name in caplog.text


def test_the_log_names_three_of_a_kind(caplog):
    records = [*toys.texts(20), *({"id": f"bad{i}", "text": ""} for i in range(6))]
    settings = toys.settings(validation={"v": [{**TEXTS, "records": records}]}, max_bad_share=0.5)
    with caplog.at_level(logging.WARNING):
        list(validation_batches(settings, "v", toys.spec(), toys.layout, batch_size=5, seed=0))
    assert caplog.text.count("skipped an example") == 3


def test_too_many_bad_examples_stop_the_run():
    records = [{"text": ""}, {"conversations": 3}, *toys.texts(8)]
    batches = start(train=[{**TEXTS, "records": records}], options={"max_bad_share": 0.15})
    with pytest.raises(UserError, match=r"examples are bad \(\d+ missing text\), more than max_bad_share=0.15"):
        for _ in range(200):
            next(batches)
    fine = start(train=[{**TEXTS, "records": records}], options={"max_bad_share": 0.25})
    for _ in range(60):
        next(fine)


def test_processes_judge_the_bad_examples_of_all():
    """One reads good rows, the other bad ones: neither stops alone, both stop at the sum."""
    records = [{"text": ""} if i % 4 else record for i, record in enumerate(toys.texts(20))]
    settings = toys.settings(validation={"v": [{**TEXTS, "records": records * 10}]}, max_bad_share=0.6)
    mine = []
    for rows in ([0], [1, 2, 3]):
        batches = validation_batches(settings, "v", toys.spec(), toys.layout, batch_size=4, seed=0, rows=rows)
        assert len(list(batches)) == 50
        mine.append(batches)
    assert [batches.tally[:2].tolist() for batches in mine] == [[50, 0], [150, 0]]
    total = sum(batches.tally for batches in mine)
    for batches in mine:
        with pytest.raises(
            UserError, match=r"150 of 200 examples are bad \(150 missing text\), more than max_bad_share=0.6"
        ):
            batches.refuse_too_many_bad(total)
    mine[0].refuse_too_many_bad(mine[0].tally)
    hopeless = start(train=[{**TEXTS, "records": [{"text": ""}]}], rows=[0])
    next(hopeless)
    with pytest.raises(UserError, match="100 of 100 examples are bad"):
        hopeless.refuse_too_many_bad(hopeless.tally)


def test_nothing_but_bad_examples_stops_the_run():
    with pytest.raises(UserError, match="400 of 400 examples are bad"):
        next(start(train=[{**TEXTS, "records": [{"text": ""}]}]))


def test_bad_examples_are_counted_on_after_a_restart():
    batches = start(train=[BROKEN], options={"max_bad_share": 0.5})
    for _ in range(10):
        next(batches)
    again = start(train=[BROKEN], options={"max_bad_share": 0.5}, cursors=batches.cursors, skipped=batches.skipped)
    for _ in range(10):
        next(batches)
        next(again)
    assert batches.skipped.sum() > 5
    np.testing.assert_array_equal(batches.skipped, again.skipped)


def test_precomputed_codes_take_the_place_of_pixels():
    codes = [np.arange(toys.OUTPUTS) + i for i in range(6)]
    picture = np.full((8, 8, 3), 9, np.uint8)
    records = [{"image": picture, "caption": f"c{i}", "codes": code} for i, code in enumerate(codes)]
    entry = {"kind": "memory", "task": "caption", "records": records, "prompts": ["?"]}
    batch, _ = next(start(train=[entry], options={"codes": True}, batch_size=6, pack=False))
    assert set(batch["pixels"]) == {"vit"}
    assert sorted(batch["codes"][:, 0, 0]) == list(range(6))
    without = [{"image": picture, "caption": "no codes"}]
    with pytest.raises(UserError, match="no precomputed codes"):
        next(start(train=[{**entry, "records": without}], options={"codes": True}))


def test_fields_are_renamed():
    entry = {"kind": "memory", "task": "text", "fields": {"text": "body"}, "records": [{"body": "hello"}]}
    batch, _ = next(start(train=[entry], pack=False))
    assert bytes(batch["tokens"][0, :5].astype(np.uint8)) == b"hello"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "config.data.train: no source"),
        ([{**TEXTS, "records": []}], r"train\[0\]: the memory source has no record"),
    ],
)
def test_empty_configs(train, message):
    with pytest.raises(UserError, match=message):
        start(train=train)
