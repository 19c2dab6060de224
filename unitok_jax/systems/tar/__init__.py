"""Tar: pictures as words of a language model, drawn by an autoregressive or a diffusion de-tokenizer."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.tar import config
from unitok_jax.systems.tar.stand_in import without_files
from unitok_jax.systems.tar.system import Tar

__all__ = ["Tar", "build", "without_files"]


def build(model: Mapping[str, Any]) -> Tar:
    """The system from `config.model`; see `config.TarConfig`."""
    return Tar(*config.read(model))
