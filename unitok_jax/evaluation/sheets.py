"""Contact sheets: many small pictures in one PNG."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8

from unitok_jax.data.pictures import Images, Picture
from unitok_jax.evaluation import files

_PAPER = 255  # the colour of the gaps and of cells without a picture


def sheet(rows: Sequence[Images], scale: int = 1, gap: int = 2) -> UInt8[np.ndarray, "height width 3"]:
    """Lays pictures out in rows and columns of cells as large as the largest picture.

    Args:
        rows: rows of pictures; they may differ in length and the pictures in size.
        scale: whole-number enlargement without smoothing.
        gap: white pixels around each cell, after scaling.
    """
    pictures = [picture for row in rows for picture in row]
    height = max(p.shape[0] for p in pictures) * scale + gap
    width = max(p.shape[1] for p in pictures) * scale + gap
    columns = max(len(row) for row in rows)
    paper = np.full((height * len(rows) + gap, width * columns + gap, 3), _PAPER, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = i * height + gap, j * width + gap
            paper[top : top + large.shape[0], left : left + large.shape[1]] = large
    return paper


def save_picture(grid: Picture | Sequence[Images], path: epath.PathLike, scale: int = 1) -> None:
    """Writes one picture, or rows of pictures as a contact sheet, to a PNG at a local or bucket path."""
    picture = grid.repeat(scale, 0).repeat(scale, 1) if isinstance(grid, np.ndarray) else sheet(grid, scale)
    files.write_picture(path, picture)
