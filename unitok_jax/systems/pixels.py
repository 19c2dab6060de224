"""Pictures as models see them, float in [-1, 1], and as files hold them, uint8."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from unitok_jax.parallel.mesh import pin_rows


def to_float(pixels: Shaped[Array, "*n H W 3"]) -> Float[Array, "*n H W 3"]:
    """uint8 to float32 in [-1, 1]; what is float already stays."""
    return pixels.astype(jnp.float32) / 127.5 - 1 if pixels.dtype == jnp.uint8 else pixels


def float_pixels(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with all its pictures in float."""
    if "pixels" not in batch:
        return batch
    return batch | {"pixels": {view: to_float(jnp.asarray(x)) for view, x in batch["pixels"].items()}}


def to_uint8(pictures: Float[Array, "*n H W 3"]) -> UInt8[np.ndarray, "*n H W 3"]:
    """Clamped and truncated, as the released decoders do it."""
    return ((np.clip(np.asarray(pictures, np.float32), -1, 1) + 1) / 2 * 255).astype(np.uint8)


def merge_images(pixels: Float[Array, "batch images H W 3"]) -> tuple[Float[Array, "n H W 3"], tuple[int, int]]:
    """All pictures of a batch in one axis, which lies on the mesh as the rows do, and the two axes they came from."""
    batch, images, *picture = pixels.shape
    return pin_rows(pixels.reshape(-1, *picture)), (batch, images)
