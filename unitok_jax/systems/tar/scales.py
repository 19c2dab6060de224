"""Pool scales: 1, 2 and 3 are 729, 169 and 81 codes of a released picture."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from unitok_jax.errors import UserError


def check(scales: Sequence[int], weights: Sequence[float]) -> None:
    """Sees to it that scales and weights go together.

    Raises:
        UserError: unless there is one positive weight for each scale.
    """
    if not scales or min(scales) < 1 or len(scales) != len(weights) or min(weights) <= 0:
        raise UserError(
            f"config.stage_options.scales: {tuple(scales)} with scale_weights {tuple(weights)}; "
            "give one positive weight for each scale of 1 or more"
        )


def switch(
    key: PRNGKeyArray, scales: Sequence[int], weights: Sequence[float], at: Callable[[int, Any], Any], operand: Any
) -> Any:
    """``at(scale, operand)`` with the scale drawn by `key`: all scales are one program, one of which runs."""
    if len(scales) == 1:
        return at(scales[0], operand)
    drawn = jax.random.categorical(key, jnp.log(jnp.asarray(weights)))
    return jax.lax.switch(drawn, [lambda x, s=s: at(s, x) for s in scales], operand)
