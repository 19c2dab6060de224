"""Pictures from arrays, encoded bytes or files to RGB arrays."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from unitok_jax.data.example import BadExample

Picture = UInt8[np.ndarray, "_ _ 3"]  # [H, W, 3], any size: no two of a signature need be alike
Images = Sequence[Picture] | UInt8[np.ndarray, "_ _ _ 3"]  # uint8 [H, W, 3] each
MAX_PIXELS = 100_000_000  # more than any camera gives: a larger header is damage or a decompression bomb
MAX_ASPECT = 100  # of the longer side to the shorter: brought to a model's height, a thinner one would fill the memory


def decode(value: Any, folder: str | None = None) -> Picture:
    """Decodes one picture.

    Args:
        value: a uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], encoded bytes, or a path.
        folder: what a relative path is relative to.

    Raises:
        BadExample: if it is missing, too large, truncated or not a picture.
    """
    if isinstance(value, np.ndarray):
        return _rgb(_from_array(value))
    if isinstance(value, str):
        return _from_bytes(read(value, folder), value)
    if isinstance(value, bytes):
        return _from_bytes(value, "encoded bytes")
    raise BadExample("image cannot be decoded", f"{type(value).__name__} is neither array, bytes nor path")


def read(path: str, folder: str | None) -> bytes:
    """The contents of a picture's file.

    Raises:
        BadExample: if it cannot be read.
    """
    try:
        file = epath.Path(folder) / path if folder else epath.Path(path)
        return file.read_bytes()
    except OSError as error:
        raise BadExample("image missing", f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, LookupError, ImportError) as error:  # NUL in a path, a scheme that epath cannot read
        raise BadExample("image missing", f"{path!r}: not a path that can be read here ({error})") from None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or array.shape[2:] in ((3,), (4,))):
        raise BadExample("image cannot be decoded", f"array {array.dtype} {array.shape}")
    _check_size(array.shape[1], array.shape[0], "array")
    return Image.fromarray(array)


def _from_bytes(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image.width, image.height, name)
            return _rgb(ImageOps.exif_transpose(image))
    except BadExample:
        raise
    except UnidentifiedImageError:  # its text names a buffer
        raise BadExample("image cannot be decoded", f"{name}: no picture of a known kind") from None
    except Exception as error:  # Pillow's decoders let out what they meet: struct.error, zlib.error, IndexError, ...
        raise BadExample("image cannot be decoded", f"{name}: {error}") from None


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        raise BadExample("image too large", f"{name}: {width} x {height}")


def _rgb(image: Image.Image) -> np.ndarray:
    """RGB; what is transparent is laid on white, truncated as UniToken's image reader does."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.array(image.convert("RGBA"))
    alpha = rgba[..., 3:] / 255.0
    return ((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8)
