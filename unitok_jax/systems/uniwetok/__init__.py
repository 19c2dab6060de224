"""UniWeTok: binary tokens, read by a language model and drawn by its diffusion head."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.uniwetok import config
from unitok_jax.systems.uniwetok.system import UniWeTok


def build(model: Mapping[str, Any]) -> UniWeTok:
    """The system from `config.model`; see `config.UniWeTokConfig`."""
    return UniWeTok(*config.read(model))
