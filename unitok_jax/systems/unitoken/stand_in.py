"""A vocabulary of the published sizes where the published file is missing: enough to plan, not to train."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unitok_jax.systems.unitoken.vocabulary import build

GRID_UNITS = 64


def without_files(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's settings, its vocabulary's file made up if it is not there."""
    path = model.get("vocabulary")
    if path is None or "://" in path or Path(path).exists():
        return model
    codes = int(model.get("vqgan", {}).get("codebook_size", 8192))
    name = hashlib.sha256(f"{codes} {GRID_UNITS}".encode()).hexdigest()[:12]
    stand_in = Path(tempfile.gettempdir()) / f"unitok-vocabulary-{name}.json"
    if not stand_in.exists():
        draft = stand_in.with_suffix(".tmp")
        build(["a b"], codes, GRID_UNITS, 0).save(str(draft))
        draft.replace(stand_in)
    return {**model, "vocabulary": str(stand_in)}
