"""A vocabulary of the published sizes where the published file is missing: enough to plan, not to train."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.systems.stand_ins import is_missing, made_up
from unitok_jax.systems.unitoken.vocabulary import build

GRID_UNITS = 64


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings, its vocabulary's file made up if it is not there."""
    if not is_missing(model, "vocabulary"):
        return model
    codes = int(model.get("vqgan", {}).get("codebook_size", 8192))
    path = made_up(f"unitoken {codes} {GRID_UNITS}", lambda: build(["a b"], codes, GRID_UNITS, 0))
    return {**model, "vocabulary": path}
