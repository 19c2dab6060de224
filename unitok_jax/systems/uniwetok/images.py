"""What UniWeTok's stages see of a picture (specification, sections 5, 7.6 and 8.7). Host side, Pillow on uint8.

``wetok``: the tokenizer's own, bilinear with antialiasing to the short side and a crop. ``adm``: the class-conditional
recipe's, BOX halving and bicubic, where a share of the pictures is cropped at random out of a slightly larger one.
"""

import math

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from unitok_jax.data.pictures import Picture

Square = UInt8[np.ndarray, "side side 3"]

CROP_RANGE = (0.8, 1.0)  # of the resized short side that a random crop keeps
FADE = (700, 750)  # of 800 epochs, those between which random crops give way to central ones
SEEDS = 1e8  # a float as released: the hash loses its low bits before the remainder is taken


def cover(
    image: Picture, height: int, width: int, rng: np.random.Generator | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Scales to cover (height, width), bilinear and antialiased, and crops: centrally without `rng`."""
    if image.shape[:2] == (height, width):
        return image
    high, wide = image.shape[:2]
    by_height = height * wide >= width * high  # whether the height is what just fits
    size = (
        (max(width, int(height * wide / high)), height) if by_height else (width, max(height, int(width * high / wide)))
    )
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    room = resized.shape[0] - height, resized.shape[1] - width
    top, left = (int(rng.integers(r + 1)) if rng else round(r / 2.0) for r in room)
    return resized[top : top + height, left : left + width]


def center_crop(image: Picture, side: int) -> Square:
    """ADM's: BOX halving while the short side is twice `side`, bicubic to `side`, then the middle."""
    resized = _shrink(Image.fromarray(image), side)
    top, left = ((n - side) // 2 for n in resized.shape[:2])
    return resized[top : top + side, left : left + side]


def random_crop(image: Picture, side: int, draw: np.random.RandomState) -> Square:
    """A crop of `side` out of the picture with a short side drawn between ``side / 1.0`` and ``side / 0.8``."""
    low, high = (math.ceil(side / share) for share in reversed(CROP_RANGE))
    resized = _shrink(Image.fromarray(image), int(draw.randint(low, high + 1)))
    top = int(draw.randint(resized.shape[0] - side + 1))
    left = int(draw.randint(resized.shape[1] - side + 1))
    return resized[top : top + side, left : left + side]


def class_view(image: Picture, side: int, share: float, draw: np.random.RandomState, flip: bool = True) -> Square:
    """The class-conditional recipe's training view; draws, in order: crop or not, its size and place, the flip."""
    cropped = share > 0 and draw.rand() < share  # without random crops that draw is not made
    view = random_crop(image, side, draw) if cropped else center_crop(image, side)
    return view[:, ::-1] if flip and draw.rand() < 0.5 else view


def random_crop_share(epoch: float, fade: tuple[int, int] = FADE) -> float:
    """The share of random crops: 1 up to the first epoch of `fade`, falling to 0 at the last."""
    first, last = fade
    return float(np.clip(1 - (epoch - first) / (last - first), 0, 1))


def item_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of a picture's draws, as released: Python's hash of the three integers, its remainder in floats."""
    return int(hash((seed, epoch, index)) % SEEDS)


def to_bytes(pictures: Float[Array, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Float pictures as uint8, ``127.5 x + 128`` clamped and truncated, as the released samplers write them."""
    return np.clip(127.5 * np.asarray(pictures, np.float32) + 128, 0, 255).astype(np.uint8)


def to_unit(pictures: Float[Array, "*n"]) -> Float[np.ndarray, "*n"]:
    """Float pictures clamped, in [0, 1], as the released evaluation scripts hand them on."""
    return np.clip(np.asarray(pictures, np.float32), -1, 1) * 0.5 + 0.5


def _shrink(picture: Image.Image, side: int) -> np.ndarray:
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
