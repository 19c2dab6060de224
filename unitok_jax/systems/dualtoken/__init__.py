"""DualToken: pixel and semantic codes of one tower, read and written by one language model."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.dualtoken import config
from unitok_jax.systems.dualtoken.system import DualToken
from unitok_jax.systems.qwen_tokenizer import stand_in
from unitok_jax.systems.stand_ins import is_missing, made_up, without_missing


def build(model: Mapping[str, Any]) -> DualToken:
    """The system from `config.model`; see `config.DualTokenConfig`."""
    return DualToken(config.read(model))


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings with a tokenizer of Qwen2.5's size in the place of a file that is not there."""
    found = without_missing(model, "vocabulary", "text_vocabulary")
    return {**found, "vocabulary": made_up("qwen2.5", stand_in)} if is_missing(model, "vocabulary") else found
