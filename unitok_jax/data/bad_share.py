"""The share of bad examples above which a run or a job stops."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from unitok_jax.data.example import REASONS
from unitok_jax.errors import UserError

ENOUGH = 100  # examples read before the share is judged


def refuse_too_many_bad(
    read: int, skipped: Mapping[str, int], share: float, limit: str, where: str, hopeless: bool = False
) -> None:
    """Judges what was read so far.

    Args:
        read: examples, bad ones included.
        skipped: the bad ones by reason.
        share: how many of them may be bad.
        limit: what the user sets `share` by.
        where: the data's place, for the message.
        hopeless: nothing but bad examples comes; stop whatever the share.

    Raises:
        UserError: if more are bad.
    """
    bad = sum(skipped.values())
    if hopeless or (read >= ENOUGH and bad > share * read):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items(), key=lambda item: -item[1]))
        raise UserError(
            f"{where}: {bad} of {read} examples are bad ({reasons}), more than {limit}={share}. "
            f"Mend the data (the log names some) or raise {limit}."
        )


def by_reason(skipped: Int64[np.ndarray, " reasons"]) -> dict[str, int]:
    """Counts in the order of `REASONS` by name, those that are not 0."""
    return {reason: int(count) for reason, count in zip(REASONS, skipped, strict=True) if count}
