"""Training of the SigLIP tower, see `systems.tower_stage`. UniToken starts from a released tower."""

import functools
from collections.abc import Mapping
from typing import Any

from unitok_jax.systems import tower_stage
from unitok_jax.systems.base import Stage
from unitok_jax.systems.unitoken.images import siglip_view


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options, `tower_stage.TowerOptions`."""
    return tower_stage.build(
        system,
        values,
        name="siglip",
        picture=functools.partial(siglip_view, side=system.config.vit.image_size),
        encode=system.vocabulary.encode,
        pad=system.vocabulary.ids.pad,
    )
