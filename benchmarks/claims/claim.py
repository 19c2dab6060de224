"""What a claim is, and what figures of several seeds say of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from benchmarks.claims.runs import Runs

Figures = Mapping[str, Mapping[str, float]]
"""By arm, by name."""
Verdict = Literal["seen", "not seen", "undecided"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure that a claim speaks of.

    Attributes:
        name: as `Claim.measure` calls it.
        up: whether more is better.
        chance: what guessing reaches; None where there is no such thing.
        digits: behind the point.
    """

    name: str
    up: bool = True
    chance: float | None = None
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """A paper's finding and the runs that look for it at small scale.

    Attributes:
        key: its name on the command line.
        system: whose folder its runs lie in; claims of one system share the runs that they have in common.
        title, says, where: heading; what the paper finds, in short; in which part of which paper.
        base, better: the arm that the paper finds wanting, and the one that it prefers.
        figures: what is compared.
        setting: what both arms share and how they differ, in a sentence or two.
        measure: trains and evaluates both arms with one seed.
    """

    key: str
    system: str
    title: str
    says: str
    where: str
    base: str
    better: str
    figures: Sequence[Figure]
    setting: str
    measure: Callable[[Runs], Figures]


def verdict(figure: Figure, base: Sequence[float], better: Sequence[float]) -> tuple[Verdict, str]:
    """Whether the better arm is better: with its worst seed than the other with its best.

    Args:
        figure: which one.
        base, better: of the two arms, a value a seed.

    Returns:
        The verdict and a sentence of what it rests on.
    """
    sign = 1 if figure.up else -1
    ours, theirs = [sign * x for x in better], [sign * x for x in base]
    if len(ours) < 2 or len(theirs) < 2:
        return "undecided", "one seed alone decides nothing"
    if figure.chance is not None and max(*ours, *theirs) <= sign * figure.chance:
        return "undecided", f"no seed of either arm is better than chance ({figure.chance:g})"
    if min(ours) > max(theirs):
        return "seen", "every seed of the one arm is better than every seed of the other"
    if max(ours) < min(theirs):
        return "not seen", "the other way round: every seed of the arm that the paper prefers is worse"
    return "undecided", "the seeds of the two arms overlap"
