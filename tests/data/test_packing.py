import dataclasses

import numpy as np
import pytest
from data_toys import OUTPUTS, SIDE, spec

from unitok_jax.data import packing
from unitok_jax.data.example import BadExample, Task
from unitok_jax.data.rows import DRAW, ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError


def random_row(rng, codes=False, blocks=False, most=20):
    """A row of text with 0 to 2 pictures, whose codes and features stand in random order of positions."""
    images = int(rng.integers(0, 3))
    kinds = [Modality.CODE, Modality.FEATURE] * images
    modality = [m for m in kinds for _ in range(OUTPUTS)]
    slots = [s for image in range(images) for _ in range(2) for s in range(image * OUTPUTS, (image + 1) * OUTPUTS)]
    extra = int(rng.integers(1, most))
    length = len(modality) + extra
    pictures = [rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(images)]
    return ExampleRow(
        tokens=rng.integers(1, 1000, length).astype(np.int32),
        targets=rng.integers(1, 1000, length).astype(np.int32),
        loss_weights=rng.random(length).astype(np.float32),
        modality=np.array(modality + [Modality.TEXT] * extra, np.int8),
        slots=np.array(slots + [0] * extra, np.int32),
        task=Task(int(rng.integers(4))),
        views={"vq": [] if codes else pictures, "vit": pictures},
        codes=rng.integers(0, 99, (images, OUTPUTS)).astype(np.int32) if codes and images else None,
        sizes=rng.integers(1, 500, (images, 2)).astype(np.int32),
        blocks=np.where(np.arange(length) < 6, np.arange(length) // 3, -1).astype(np.int32) if blocks else None,
    )


def packed_lines(rows, shape, codes):
    """Fills lines one after another, as a row stream does."""
    lines = [packing.Line(shape, codes)]
    for row in rows:
        if not lines[-1].fits(row):
            lines.append(packing.Line(shape, codes))
        lines[-1].add(row)
    return [line.rows for line in lines]


def unpacked(batch, line, segment, codes):
    """Takes one example back out of a batch, following the definition of its fields only."""
    where = np.flatnonzero(batch["segments"][line] == segment)
    np.testing.assert_array_equal(where, np.arange(where[0], where[0] + len(where)))
    np.testing.assert_array_equal(batch["positions"][line, where], np.arange(len(where)))
    names = ("tokens", "targets", "loss_weights", "modality", "slots", "task")
    fields = {name: batch[name][line, where] for name in names}
    outputs = {}
    for modality, view in ((Modality.CODE, "vq"), (Modality.FEATURE, "vit")):
        slots = fields["slots"][fields["modality"] == modality]
        source = batch["codes"] if codes and view == "vq" else batch["pixels"][view]
        outputs[view] = [source[line, slot // OUTPUTS] for slot in slots[::OUTPUTS]]
        np.testing.assert_array_equal(slots % OUTPUTS, np.tile(np.arange(OUTPUTS), len(slots) // OUTPUTS))
        assert batch["filled"][view][line, slots // OUTPUTS].all()
    return fields, outputs


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_packed_rows_unpack_to_the_examples(seed, codes):
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, codes, blocks=True) for _ in range(25)]
    shape = spec(length=64, images=4, blocks=True)
    lines = packed_lines(rows, shape, codes)
    batch = packing.pack(lines, shape, codes)
    assert len(lines) < len(rows)
    left = iter(rows)
    for line, inside in enumerate(lines):
        last_block = -1
        for segment in range(1, len(inside) + 1):
            row = next(left)
            fields, outputs = unpacked(batch, line, segment, codes)
            for name in ("tokens", "targets", "loss_weights", "modality"):
                np.testing.assert_array_equal(fields[name], getattr(row, name))
            assert (fields["task"] == row.task).all()
            expected = {"vq": row.codes if codes else row.views["vq"], "vit": row.views["vit"]}
            for view, given in expected.items():
                given = [] if given is None else list(given)
                assert len(outputs[view]) == len(given)
                assert all((a == b).all() for a, b in zip(outputs[view], given, strict=True))
            blocks = batch["blocks"][line, batch["segments"][line] == segment]
            np.testing.assert_array_equal(blocks >= 0, row.blocks >= 0)
            assert blocks[blocks >= 0].min() > last_block
            last_block = blocks.max()
        padding = batch["segments"][line] == 0
        assert padding.sum() == 64 - sum(len(row.tokens) for row in inside)
        assert not batch["loss_weights"][line, padding].any()
        assert (batch["blocks"][line, padding] == -1).all()
        sizes = np.concatenate([row.sizes for row in inside])
        np.testing.assert_array_equal(batch["sizes"][line, : len(sizes)], sizes)
        assert batch["filled"]["vq"][line].sum() == sum(packing.pictures(row, shape, codes)["vq"] for row in inside)
    assert next(left, None) is None


def test_fields_and_dtypes_of_a_batch():
    batch = packing.empty(spec(blocks=True), 2, codes=True)
    dtypes = {name: str(value.dtype) for name, value in batch.items() if not isinstance(value, dict)}
    integers = ("tokens", "targets", "positions", "segments", "slots", "blocks", "codes", "sizes", "labels")
    assert dtypes == dict.fromkeys(integers, "int32") | {"loss_weights": "float32", "task": "int8", "modality": "int8"}
    assert batch["codes"].shape == (2, 3, OUTPUTS)
    assert set(batch["pixels"]) == {"vit"}
    assert set(batch["filled"]) == {"vit", "vq"}
    assert batch["pixels"]["vit"].dtype == np.uint8
    assert "blocks" not in packing.empty(spec(), 2, codes=False)


def test_one_example_a_row_without_packing():
    rng = np.random.default_rng(0)
    rows = [random_row(rng) for _ in range(5)]
    lines = packed_lines(rows, spec(length=64, pack=False), codes=False)
    assert [len(line) for line in lines] == [1] * 5


def test_pictures_alone_have_no_sequence():
    shape = RowSpec(0, {"pixels": View(1, SIDE, SIDE)})
    picture = np.ones((SIDE, SIDE, 3), np.uint8)
    empty = np.zeros(0, np.int32)
    row = ExampleRow(empty, empty, empty, empty, empty, Task.NONE, {"pixels": [picture]}, label=4)
    packing.check(row, shape, codes=False)
    batch = packing.pack([[row], []], shape, codes=False)
    assert set(batch) == {"labels", "filled", "sizes", "pixels"}
    assert batch["labels"].tolist() == [4, -1]
    assert batch["filled"]["pixels"].tolist() == [[True], [False]]
    assert packing.unused(batch, shape) == {"pixels": 0.5}


def test_unused_share():
    rng = np.random.default_rng(3)
    row = random_row(rng)
    row.targets[2:5], row.loss_weights[4:] = DRAW, 0
    shape = spec(length=64, images=4, loss_positions=10, visual_positions=100)
    batch = packing.pack([[row], []], shape, codes=False)
    images = len(row.views["vq"])
    assert packing.unused(batch, shape) == {
        "positions": 1 - len(row.tokens) / 128,
        "vq": 1 - images / 8,
        "vit": 1 - images / 8,
        "loss_positions": 1 - 2 / 20,
        "visual_positions": 1 - 2 / 128,  # a row has no more than its positions
    }


def learning(words, drawn, length=20):
    """A row of text of which so many positions are learnt, of either kind, in random places."""
    where = np.random.default_rng(words).permutation(length)[: words + drawn]
    weights, targets = np.zeros(length, np.float32), np.full(length, 7, np.int32)
    weights[where], targets[where[:drawn]] = 0.5, DRAW
    zeros = np.zeros(length, np.int32)
    return ExampleRow(zeros, targets, weights, zeros, zeros, Task.TEXT)


def test_what_would_learn_more_than_its_line_has_room_for_opens_the_next():
    rows = [learning(4, 1), learning(6, 0), learning(1, 0), learning(0, 5), learning(2, 3), learning(10, 8)]
    assert [len(line) for line in packed_lines(rows, spec(length=100), False)] == [5, 1]
    bounded = spec(length=100, loss_positions=10, visual_positions=8)
    assert [len(line) for line in packed_lines(rows, bounded, False)] == [2, 3, 1]
    for row, message in (
        (learning(11, 0), "longer than the row: 11 loss positions, room for 10"),
        (learning(3, 9), "longer than the row: 9 visual positions, room for 8"),
    ):
        packing.check(row, spec(length=100), codes=False)
        with pytest.raises(BadExample, match=message):
            packing.check(row, bounded, codes=False)
    with pytest.raises(UserError, match=r"config.stage_options.loss_positions: -1; 0 stands for the whole row"):
        spec(loss_positions=-1)


def with_pictures(images, **changes):
    rng = np.random.default_rng(0)
    while len((row := random_row(rng)).views["vq"]) != images:
        pass
    return dataclasses.replace(row, **changes)


@pytest.mark.parametrize(
    ("row", "shape", "codes", "message"),
    [
        (with_pictures(2), spec(length=20), False, "longer than the row: .* positions, room for 20"),
        (with_pictures(2), spec(length=64, images=1), False, "longer than the row: 2 pictures of vq, room for 1"),
        (with_pictures(1), spec(length=64), True, "no precomputed codes"),
        (with_pictures(1, codes=np.zeros((1, 9), np.int32)), spec(length=64), True, r"shape \(1, 9\), expected"),
        (with_pictures(1, views={}), spec(length=64), False, "image symbols do not match the images"),
    ],
)
def test_rows_that_cannot_stand_alone(row, shape, codes, message):
    with pytest.raises(BadExample, match=message):
        packing.check(row, shape, codes)


def test_residual_codes_keep_their_depth():
    spec = RowSpec(4, {"v": View(2, 0, 0, 2, Modality.CODE, depth=3)}, code_view="v", pack=True)
    codes = np.arange(6, dtype=np.int32).reshape(1, 2, 3)

    def row(codes):
        zeros = np.zeros(2, np.int32)
        ids = np.full(2, Modality.CODE, np.int8)
        return ExampleRow(
            zeros, zeros, zeros.astype(np.float32), ids, np.arange(2, dtype=np.int32), Task.NONE, codes=codes
        )

    packing.check(row(codes), spec, codes=True)
    batch = packing.pack([[row(codes), row(codes + 6)]], spec, codes=True)
    assert np.array_equal(batch["codes"][0], np.arange(12).reshape(2, 2, 3))
    assert batch["slots"][0].tolist() == [0, 1, 2, 3]
    with pytest.raises(BadExample, match=r"expected \[images, 2, 3\]"):
        packing.check(row(codes[..., 0]), spec, codes=True)
