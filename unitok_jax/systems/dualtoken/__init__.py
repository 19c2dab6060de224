"""DualToken: pixel and semantic codes of one tower, read and written by one language model."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.dualtoken import config
from unitok_jax.systems.dualtoken.system import DualToken
from unitok_jax.systems.stand_ins import without_missing


def build(model: Mapping[str, Any]) -> DualToken:
    """The system from `config.model`; see `config.DualTokenConfig`."""
    return DualToken(config.read(model))


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings with the small tokenizer in the place of a file that is not there."""
    return without_missing(model, "vocabulary", "text_vocabulary")
