"""What UniToken sees of an image: a crop for the VQGAN and a resized view for the SigLIP tower (base variant).

Host side, Pillow on uint8, as the released item processor does it (UniToken specification, section 9).
"""

import numpy as np
from PIL import Image


def siglip_view(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [side, side, 3], bicubic and antialiased, ignoring the aspect ratio."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def vqgan_view(image: np.ndarray, height: int, width: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Scales uint8 [H, W, 3] to cover (height, width) and crops.

    The released code crops at a random place, at inference too; here the place is random with `rng` and
    central without it, so that inference repeats itself.
    """
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


def crop_offset(size: tuple[int, int], target: tuple[int, int], rng: np.random.Generator | None) -> tuple[int, int]:
    """(left, upper) of a crop of `target` (width, height) out of `size`: random with `rng`, central without."""
    room = (size[0] - target[0], size[1] - target[1])
    if rng is None:
        return room[0] // 2, room[1] // 2
    return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
