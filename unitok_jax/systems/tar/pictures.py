"""What Tar sees of an image, and rows that are a picture alone."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.pictures import Picture
from unitok_jax.data.rows import ExampleRow


def square(image: Picture, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Resizes to a square of `side`, bicubic and antialiased, its aspect not kept.

    This is what the released training feeds the language model's tokenizer. The released scripts that read pictures
    leave the resizing to the tokenizer, which does it bilinearly (`TATok.resize`).
    """
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def layout(views: Mapping[str, int], example: Example, rng: np.random.Generator) -> ExampleRow:
    """A row that is one picture, at each view's size.

    Raises:
        BadExample: for an example with other than one picture.
    """
    del rng
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    none = np.zeros(0, np.int32)
    shown = {name: [square(example.images[0], side)] for name, side in views.items()}
    return ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, shown)
