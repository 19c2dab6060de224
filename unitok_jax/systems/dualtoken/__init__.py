"""DualToken: pixel and semantic codes of one tower, read and written by one language model."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.dualtoken import config
from unitok_jax.systems.dualtoken.system import DualToken


def build(model: Mapping[str, Any]) -> DualToken:
    """The system from `config.model`; see `config.DualTokenConfig`."""
    return DualToken(config.read(model))
