"""What UniToken sees of an image: a crop for the VQGAN and a resized view for the SigLIP tower.

Host side, Pillow on uint8, as the released item processor does it (UniToken specification, section 9). The released
code crops at a random place, at inference too.
"""

import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unitok_jax.data.pictures import Picture

Draws = np.random.Generator | random.Random | None


def siglip_view(image: Picture, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Resizes to a square of `side`, bicubic and antialiased, ignoring the aspect ratio."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def vqgan_view(image: Picture, height: int, width: int, rng: Draws = None) -> UInt8[np.ndarray, "height width 3"]:
    """Scales to cover (height, width) and crops: at a random place with `rng`, else in the middle."""
    if image.shape[:2] == (height, width):
        return image
    picture = cover(Image.fromarray(image), width, height)
    left, upper = crop_offset(picture.size, (width, height), rng)
    return np.asarray(picture.crop((left, upper, left + width, upper + height)))


def cover(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Halves with a box filter while both sides are twice the target, then scales to cover it (bicubic)."""
    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def crop_offset(size: tuple[int, int], target: tuple[int, int], rng: Draws) -> tuple[int, int]:
    """(left, upper) of a crop of `target` (width, height) out of `size`: random with `rng`, central without."""
    room = (size[0] - target[0], size[1] - target[1])
    if rng is None:
        return room[0] // 2, room[1] // 2
    if isinstance(rng, random.Random):
        return rng.randint(0, room[0]), rng.randint(0, room[1])
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))


def crop_sizes(patches: int, unit: int, widest: float = 4.0) -> list[tuple[int, int]]:
    """(width, height) of every crop of at most `patches` squares of `unit` pixels, no side over `widest` times the
    other. The release has the list but crops to its square alone; a drawn image may have any of these sizes."""
    sizes, across, down = [], patches, 1
    while across:
        if max(across, down) / min(across, down) <= widest:
            sizes.append((across * unit, down * unit))
        if (down + 1) * across <= patches:
            down += 1
        else:
            across -= 1
    return sizes


def nearest_size(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of `sizes` whose aspect is nearest to that of `size`; of equals the largest."""

    def likeness(candidate: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        scales = (candidate[0] / size[0], candidate[1] / size[1])
        return min(scales) / max(scales), candidate

    return max(sizes, key=likeness)
