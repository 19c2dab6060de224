"""Modules as functions of their parameters."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn


def applied(module: nn.Module, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """What a module, or its `method`, gives with parameters alone; no variable changes.

    Flax's own `apply` may give the changed variables besides, and says so in its type.
    """
    return module.apply({"params": params}, *args, **kwargs)
