"""AnyRes: a picture as an overview and tiles of a canvas that fits it, and the order in which its features are read.

Host side. Rules as released (UniToken specification, sections 8.3 and 9.1); the arithmetic is Python's, in doubles,
because where a quotient is rounded decides how many rows a picture keeps.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import Image

from unitok_jax.data.pictures import Picture
from unitok_jax.systems.unitoken.images import siglip_view

Canvas = tuple[int, int]  # width, height in pixels
Tile = UInt8[np.ndarray, "side side 3"]

ROW_END = -1  # in an order: no feature, but the embedding of the newline id


def choose_canvas(width: int, height: int, canvases: Sequence[Canvas]) -> Canvas:
    """The canvas that keeps most of a picture's pixels; of equals the one that wastes least, then the first."""

    def merit(canvas: Canvas) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    return max(canvases, key=merit)


def on_canvas(image: Picture, canvas: Canvas) -> UInt8[np.ndarray, "height width 3"]:
    """Scales a picture to fit the canvas (bicubic, aspect kept) and centres it on black."""
    height, width = image.shape[:2]
    across, down = canvas[0] / width, canvas[1] / height
    if across < down:
        size = (canvas[0], min(math.ceil(height * across), canvas[1]))
    else:
        size = (min(math.ceil(width * down), canvas[0]), canvas[1])
    result = Image.new("RGB", canvas)
    scaled = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    result.paste(scaled, ((canvas[0] - size[0]) // 2, (canvas[1] - size[1]) // 2))
    return np.asarray(result)


def corners(canvas: Canvas, side: int) -> list[tuple[int, int]]:
    """(upper, left) of each tile of a canvas, row by row."""
    return [(y, x) for y in range(0, canvas[1], side) for x in range(0, canvas[0], side)]


def tiles(picture: Picture, side: int) -> list[Tile]:
    """Squares of a canvas, row by row."""
    canvas = (picture.shape[1], picture.shape[0])
    return [picture[y : y + side, x : x + side] for y, x in corners(canvas, side)]


def kept_span(width: int, height: int, grid: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a canvas's feature map, `grid` = (rows, columns), that the picture reaches.

    The border is rounded down, so an odd remainder leaves one row or column too many, as released.
    """
    rows, columns = grid
    if width / height > columns / rows:
        border = (rows - int(height * (columns / width))) // 2
        return slice(border, rows - border), slice(0, columns)
    border = (columns - int(width * (rows / height))) // 2
    return slice(0, rows), slice(border, columns - border)


def tile_order(width: int, height: int, canvas: Canvas, side: int, grid: int) -> Int[np.ndarray, " n"]:
    """Features of the tiles in reading order, `ROW_END` after each row of the map.

    Args:
        width, height: of the original picture.
        canvas: what it was laid on.
        side: of a tile, in pixels.
        grid: features a side of a tile.

    Returns:
        Numbers of features, counted in the order (tile row, tile column, row, column), int32.
    """
    down, across = canvas[1] // side, canvas[0] // side
    numbers = np.arange(down * across * grid * grid, dtype=np.int32)
    whole = rearrange(numbers, "(h w r s) -> (h r) (w s)", h=down, w=across, r=grid)
    kept = whole[kept_span(width, height, (down * grid, across * grid))]
    ends = np.full((len(kept), 1), ROW_END, np.int32)
    return np.concatenate([kept, ends], axis=1).ravel()


def feature_order(width: int, height: int, canvas: Canvas | None, side: int, grid: int) -> Int[np.ndarray, " n"]:
    """All features of a picture in reading order: the overview's, then the tiles'.

    Args:
        width, height: of the original picture.
        canvas: what it was laid on; None where there is an overview alone, which one `ROW_END` follows.
        side, grid: see `tile_order`.

    Returns:
        Numbers of features counted over the overview and the tiles, and `ROW_END`, int32.
    """
    overview = np.arange(grid * grid, dtype=np.int32)
    if canvas is None:
        return np.append(overview, np.int32(ROW_END))
    order = tile_order(width, height, canvas, side, grid)
    return np.concatenate([overview, np.where(order == ROW_END, ROW_END, order + len(overview))])


@dataclasses.dataclass(frozen=True)
class AnyRes:
    """The AnyRes variant's way of seeing.

    Attributes:
        canvases: (width, height) in pixels, in the order of preference.
        side: of a tile, in pixels.
        grid: features a side of a tile.
    """

    canvases: tuple[Canvas, ...]
    side: int
    grid: int

    @property
    def most_pictures(self) -> int:
        """The most pictures that the tower sees of one image."""
        return 1 + max(len(corners(canvas, self.side)) for canvas in self.canvases)

    @property
    def most_features(self) -> int:
        """The most positions that the features and row ends of one image take."""
        maps = ((height // self.side * self.grid, width // self.side * self.grid) for width, height in self.canvases)
        return self.grid**2 + max(rows * (columns + 1) for rows, columns in maps)

    def pictures(self, image: Picture) -> list[Tile]:
        """What the tower sees: the whole image without its aspect ratio, then the tiles, [side, side, 3] each."""
        canvas = choose_canvas(image.shape[1], image.shape[0], self.canvases)
        return [siglip_view(image, self.side), *tiles(on_canvas(image, canvas), self.side)]

    def count(self, width: int, height: int) -> int:
        """How many pictures that is."""
        return 1 + len(corners(choose_canvas(width, height, self.canvases), self.side))

    def order(self, width: int, height: int) -> Int[np.ndarray, " n"]:
        """`feature_order` of an image of this size."""
        canvas = choose_canvas(width, height, self.canvases)
        return feature_order(width, height, canvas, self.side, self.grid)
