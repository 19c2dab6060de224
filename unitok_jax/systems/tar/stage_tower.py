"""Training of TA-Tok's teacher, see `systems.tower_stage`. The release has SigLIP2; this is for runs without it."""

import functools
from collections.abc import Mapping
from typing import Any

from unitok_jax.systems import tower_stage
from unitok_jax.systems.base import Stage
from unitok_jax.systems.tar.pictures import square


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options, `tower_stage.TowerOptions`; needs `config.model.text`."""
    return tower_stage.build(
        system,
        values,
        name="ta_tok",
        picture=functools.partial(square, side=system.config.vit.image_size),
        encode=system.vocabulary.encode,
        pad=system.vocabulary.ids.end_of_text,
    )
