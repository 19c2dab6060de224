"""Example rows into the fixed shapes of a batch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.example import BadExample
from unitok_jax.data.rows import LEARNT, ExampleRow, Modality, RowSpec, View

HostBatch = dict[str, Any]  # the fields of a batch as numpy arrays; see `empty`


def pictures(row: ExampleRow, spec: RowSpec, codes: bool) -> dict[str, int]:
    """How many pictures of each view a row brings; those of the code view are counted by their codes."""
    counts = {name: len(row.views.get(name, ())) for name in spec.views}
    if codes and spec.code_view is not None:
        counts[spec.code_view] = 0 if row.codes is None else len(row.codes)
    return counts


def room(spec: RowSpec) -> dict[str, int]:
    """How much a line holds of everything that is bounded, by a name to show."""
    bounds = {"positions": spec.length} if spec.length else {}
    bounds |= {f"pictures of {name}": view.images for name, view in spec.views.items()}
    bounds |= {"pictures": _pictures_room(spec)}
    return bounds | {_shown(name): getattr(spec, name) for name in LEARNT if getattr(spec, name)}


def needs(row: ExampleRow, spec: RowSpec, codes: bool) -> Counter[str]:
    """How much of it a row takes."""
    taken = Counter({f"pictures of {name}": count for name, count in pictures(row, spec, codes).items()})
    taken["pictures"], taken["positions"] = _sizes(row), len(row.tokens)
    return taken + Counter({_shown(name): int(where.sum()) for name, where in _learnt(vars(row)).items()})


def check(row: ExampleRow, spec: RowSpec, codes: bool) -> None:
    """Makes sure that a row can stand alone in a line of the batch.

    Raises:
        BadExample: if it takes more of anything than a line holds, or points at codes that it does not have.
    """
    taken = needs(row, spec, codes)
    for name, bound in room(spec).items():
        if taken[name] > bound:
            raise BadExample("longer than the row", f"{taken[name]} {name}, room for {bound}")
    if codes and row.codes is not None and spec.code_view is not None:
        wanted = spec.views[spec.code_view].codes
        if np.shape(row.codes)[1:] != wanted:
            shape = ", ".join(map(str, wanted))
            raise BadExample(
                "no precomputed codes", f"codes of shape {np.shape(row.codes)}, expected [images, {shape}]"
            )
    counts = pictures(row, spec, codes)
    for modality, name in _views_by_modality(spec).items():
        slots = np.asarray(row.slots)[np.asarray(row.modality) == modality]
        if slots.size and slots.max() >= counts[name] * spec.views[name].outputs:
            without_codes = codes and name == spec.code_view
            reason = "no precomputed codes" if without_codes else "image symbols do not match the images"
            raise BadExample(reason, f"slot {slots.max()}, {counts[name]} pictures of {name}")


class Line:
    """The example rows of one line of the batch, and whether one more fits."""

    def __init__(self, spec: RowSpec, codes: bool):
        self.spec, self.codes = spec, codes
        self.rows: list[ExampleRow] = []
        self._used: Counter[str] = Counter()

    def fits(self, row: ExampleRow) -> bool:
        """Whether `row` has room beside what is there already."""
        if self.rows and not self.spec.pack:
            return False
        taken = self._used + needs(row, self.spec, self.codes)
        return all(taken[name] <= bound for name, bound in room(self.spec).items())

    def add(self, row: ExampleRow) -> None:
        """Appends a row that fits."""
        self.rows.append(row)
        self._used += needs(row, self.spec, self.codes)


def empty(spec: RowSpec, batch: int, codes: bool) -> HostBatch:
    """A batch of padding.

    Sequence fields are [batch, length] and absent where `spec.length` is 0: ``tokens, targets, positions, segments
    (0 = padding), slots`` int32, ``loss_weights`` float32, ``task, modality`` int8, ``blocks`` int32 (-1 = causal).
    Pictures: ``pixels`` uint8 {view: [batch, images, H, W, 3]}, ``filled`` bool {view: [batch, images]},
    ``sizes`` int32 [batch, images, 2] (room of the largest view), ``labels`` int32 [batch] (-1 = none), and with
    `codes` ``codes`` int32 [batch, images, outputs] (or [..., depth]) in the place of the code view's pixels.
    """
    views = dict(spec.views)
    result: HostBatch = {"labels": np.full(batch, -1, np.int32)}
    if spec.length:
        shape = (batch, spec.length)
        for name in ("tokens", "targets", "positions", "segments", "slots"):
            result[name] = np.zeros(shape, np.int32)
        result |= {"loss_weights": np.zeros(shape, np.float32)}
        result |= {name: np.zeros(shape, np.int8) for name in ("task", "modality")}
        if spec.blocks:
            result["blocks"] = np.full(shape, -1, np.int32)
    if views:
        result["filled"] = {name: np.zeros((batch, view.images), bool) for name, view in views.items()}
        result["sizes"] = np.zeros((batch, _pictures_room(spec), 2), np.int32)
        if codes and spec.code_view is not None:
            view = views.pop(spec.code_view)
            result["codes"] = np.zeros((batch, view.images, *view.codes), np.int32)
        result["pixels"] = {name: _blank(view, batch) for name, view in views.items()}
    return result


def pack(lines: Sequence[Sequence[ExampleRow]], spec: RowSpec, codes: bool) -> HostBatch:
    """Writes lines of example rows into a batch; a line without rows is padding."""
    batch = empty(spec, len(lines), codes)
    for index, rows in enumerate(lines):
        _write_line(batch, index, rows, spec, codes)
    return batch


def unused(batch: HostBatch, spec: RowSpec) -> dict[str, float]:
    """The share of a batch's room that padding takes: ``positions``, each view by name, and learnt positions of either
    kind where `spec` bounds them."""
    shares = {name: 1.0 - float(np.mean(filled)) for name, filled in batch.get("filled", {}).items()}
    if "segments" not in batch:
        return shares
    shares["positions"] = 1.0 - float(np.mean(batch["segments"] > 0))
    for name, where in _learnt(batch).items():
        if getattr(spec, name):
            shares[name] = 1.0 - float(where.sum()) / (len(where) * min(getattr(spec, name), where.shape[1]))
    return shares


def _learnt(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where a row or batch is learnt, by the field of `RowSpec` that bounds it."""
    learnt, drawn = np.asarray(fields["loss_weights"]) != 0, np.asarray(fields["targets"]) < 0
    return dict(zip(LEARNT, (learnt & ~drawn, learnt & drawn), strict=True))


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _blank(view: View, batch: int) -> np.ndarray:
    return np.zeros((batch, view.images, view.height, view.width, 3), np.uint8)


def _sizes(row: ExampleRow) -> int:
    return 0 if row.sizes is None else len(row.sizes)


def _pictures_room(spec: RowSpec) -> int:
    return max((view.images for view in spec.views.values()), default=0)


def _views_by_modality(spec: RowSpec) -> dict[Modality, str]:
    return {view.modality: name for name, view in spec.views.items() if view.outputs}


def _write_line(batch: HostBatch, index: int, rows: Sequence[ExampleRow], spec: RowSpec, codes: bool) -> None:
    start, sizes, block, before = 0, 0, 0, dict.fromkeys(spec.views, 0)
    for segment, row in enumerate(rows, start=1):
        if spec.length:
            span = slice(start, start + len(row.tokens))
            _write_positions(batch, index, span, segment, row, spec, before)
            start = span.stop
        if spec.blocks and row.blocks is not None:
            batch["blocks"][index, span] = np.where(row.blocks >= 0, row.blocks + block, -1)
            block += int(np.max(row.blocks, initial=-1)) + 1
        _write_pictures(batch, index, row, spec, codes, before)
        if row.sizes is not None and len(row.sizes):
            batch["sizes"][index, sizes : sizes + len(row.sizes)] = row.sizes
            sizes += len(row.sizes)
    if rows and rows[0].label is not None:
        batch["labels"][index] = rows[0].label


def _write_positions(
    batch: HostBatch, index: int, span: slice, segment: int, row: ExampleRow, spec: RowSpec, before: Mapping[str, int]
) -> None:
    for name in ("tokens", "targets", "loss_weights", "modality"):
        batch[name][index, span] = getattr(row, name)
    batch["positions"][index, span] = np.arange(len(row.tokens))
    batch["segments"][index, span] = segment
    batch["task"][index, span] = row.task
    slots = np.array(row.slots, np.int32)
    for modality, name in _views_by_modality(spec).items():
        slots[np.asarray(row.modality) == modality] += before[name] * spec.views[name].outputs
    batch["slots"][index, span] = slots


def _write_pictures(
    batch: HostBatch, index: int, row: ExampleRow, spec: RowSpec, codes: bool, before: dict[str, int]
) -> None:
    for name, count in pictures(row, spec, codes).items():
        span = slice(before[name], before[name] + count)
        if count and codes and name == spec.code_view:
            batch["codes"][index, span] = row.codes
        elif count:
            batch["pixels"][name][index, span] = np.stack(row.views[name])
        batch["filled"][name][index, span] = True
        before[name] += count
