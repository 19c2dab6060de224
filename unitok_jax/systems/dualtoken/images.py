"""What DualToken sees of an image: Pillow on uint8, as the released transforms do it (specification, section 8)."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unitok_jax.data.pictures import Picture

Box = tuple[int, int, int, int]  # top, left, height, width

SCALE = (0.9, 1.0)  # of the area that a training crop keeps
RATIO = (3 / 4, 4 / 3)  # of its width to its height
ATTEMPTS = 10


def whole_view(image: Picture, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The shortest side scaled to `side`, bicubic and antialiased, then the centre square."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    short, long = min(height, width), max(height, width)
    longer = int(side * long / short)
    size = (side, longer) if width <= height else (longer, side)
    scaled = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(scaled.crop((left, top, left + side, top + side)))


def crop_view(image: Picture, box: Box, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A crop scaled to a square, bicubic and antialiased, its aspect ratio ignored."""
    top, left, height, width = box
    crop = Image.fromarray(image[top : top + height, left : left + width])
    return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))


def draw_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A random crop of nearly the whole picture, as torchvision's ``RandomResizedCrop`` draws it."""
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return _nearest_box(height, width)


def _nearest_box(height: int, width: int) -> Box:
    """The largest centred crop whose aspect ratio is allowed."""
    h, w = height, width
    if width < RATIO[0] * height:
        h = round(width / RATIO[0])
    elif width > RATIO[1] * height:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def view(image: Picture, side: int, rng: np.random.Generator | None = None) -> UInt8[np.ndarray, "side side 3"]:
    """What the tower is given: a random crop with `rng`, the centre without."""
    if rng is None:
        return whole_view(image, side)
    return crop_view(image, draw_box(*image.shape[:2], rng), side)
