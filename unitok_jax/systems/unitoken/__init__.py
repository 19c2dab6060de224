"""UniToken: one decoder over VQGAN codes and SigLIP features."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.unitoken import config
from unitok_jax.systems.unitoken.stand_in import without_files
from unitok_jax.systems.unitoken.system import UniToken

__all__ = ["UniToken", "build", "without_files"]


def build(model: Mapping[str, Any]) -> UniToken:
    """The system from `config.model`; see `config.UniTokenConfig`."""
    return UniToken(*config.read(model))
