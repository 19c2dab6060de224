"""UniWeTok: binary tokens, read by a language model and drawn by its diffusion head."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.stand_ins import without_missing
from unitok_jax.systems.uniwetok import config
from unitok_jax.systems.uniwetok.system import UniWeTok


def build(model: Mapping[str, Any]) -> UniWeTok:
    """The system from `config.model`; see `config.UniWeTokConfig`."""
    return UniWeTok(*config.read(model))


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings with the small tokenizer in the place of a file that is not there."""
    return without_missing(model, "vocabulary")
