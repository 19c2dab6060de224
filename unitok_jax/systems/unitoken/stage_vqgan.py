"""Training of the VQGAN tokenizer: reconstruction, LPIPS, a PatchGAN and codebook losses, see `systems.vq_stage`.

The release ships weights and no training code; this stage is ours, its codebook losses are the released model's.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow
from unitok_jax.settings import from_config
from unitok_jax.systems import vq_stage
from unitok_jax.systems.base import Params, Stage
from unitok_jax.systems.unitoken.images import vqgan_view


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options, `vq_stage.VQOptions`."""
    options = from_config(vq_stage.VQOptions, values, "config.stage_options")

    def init(key: jax.Array) -> Params:
        return system.init(key, ("vqgan",))

    layout = functools.partial(_layout, system)
    return vq_stage.build(system.modules["vqgan"], "vqgan", system.config.image_size, options, init, layout)


def _layout(system: Any, example: Example, rng: np.random.Generator) -> ExampleRow:
    """A picture alone."""
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    none = np.zeros(0, np.int32)
    side = system.config.image_size
    views = {"vqgan": [vqgan_view(example.images[0], side, side, rng)]}
    return ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, views)
