"""Prompts of different lengths into batches of few shapes, so that few programs compile."""

from collections.abc import Sequence

import numpy as np

from unitok_jax.data import packing
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.systems.base import Batch

_CODES = "codes"  # stands for the view whose pictures came as codes


def bucket(count: int, smallest: int = 1) -> int:
    """The size that a count is padded to: the smallest power of two, or one and a half of one, that holds it."""
    size = smallest
    while size < count:
        power = 1 << (size.bit_length() - 1)
        size = power + power // 2 if size == power and power > 1 else 2 * power
    return size


def several_sizes(rows: Sequence[ExampleRow]) -> bool:
    """Whether pictures of one view differ in size, so that they fit into no batch as pictures."""
    sizes: dict[str, set[tuple[int, ...]]] = {}
    for row in rows:
        for name, pictures in row.views.items():
            sizes.setdefault(name, set()).update(picture.shape for picture in pictures)
    return any(len(found) > 1 for found in sizes.values())


def prompt_batch(rows: Sequence[ExampleRow]) -> Batch:
    """One prompt a line, right-padded to a bucket of positions and of pictures; fields as of a training batch.

    Raises:
        UserError: if pictures of one view differ in size.
    """
    views = {name: _view([row.views.get(name, []) for row in rows], name) for row in rows for name in row.views}
    views = {name: view for name, view in views.items() if view.images}
    codes = [row.codes for row in rows if row.codes is not None]
    if codes:
        room = bucket(max(len(c) for c in codes))
        depth = codes[0].shape[2] if codes[0].ndim == 3 else 0
        views[_CODES] = View(room, 0, 0, codes[0].shape[1], Modality.CODE, depth)
    spec = RowSpec(
        length=bucket(max(len(row.tokens) for row in rows), smallest=16),
        views=views,
        code_view=_CODES if codes else None,
        blocks=any(row.blocks is not None for row in rows),
    )
    return packing.pack([[row] for row in rows], spec, codes=bool(codes))


def _view(pictures: Sequence[Sequence[np.ndarray]], name: str) -> View:
    sizes = {picture.shape[:2] for row in pictures for picture in row}
    if len(sizes) > 1:
        raise UserError(f"pictures of the view {name!r} in one batch must have one size, got {sorted(sizes)}")
    height, width = next(iter(sizes), (0, 0))
    return View(bucket(max(len(row) for row in pictures)) if sizes else 0, height, width)
