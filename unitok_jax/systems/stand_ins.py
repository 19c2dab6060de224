"""What stands in for text files that are not there: enough to plan a recipe, not to train it."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


def is_missing(model: Mapping[str, Any], key: str) -> bool:
    """Whether `config.model` names a local file that is not there; what lies in a bucket is not looked for."""
    path = model.get(key)
    return path is not None and "://" not in path and not Path(path).exists()


def without_missing(model: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """`config.model` with the system's small bundled file in the place of each that is not there."""
    return {key: value for key, value in model.items() if key not in keys or not is_missing(model, key)}


def made_up(name: str, make: Callable[[], Tokenizer]) -> str:
    """The path of a tokenizer JSON among the temporary files, made the first time; `name` tells what is in it."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"unitok-vocabulary-{digest}.json"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".json", delete=False) as draft:
            make().save(draft.name)
        Path(draft.name).replace(path)
    return str(path)
