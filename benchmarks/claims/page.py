"""The page of all claims: what was looked for, each seed's figures, and what they say."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.claims.claim import Claim, Figure, verdict
from benchmarks.claims.runs import read, write_text

PREFACE = """# The papers' findings at small scale

Made by `make claims`: what some of the papers' ablations find, looked for on scikit-learn's handwritten digits with the
demos' models (16 x 16 pixels, a few hundred thousand parameters, a few hundred steps a run on one CPU core). The papers
worked with models and data thousands of times as large: a finding that is not seen here is not refuted, and one that is
seen is not proven. It shows that the code can tell the two arms apart, or that at this scale it cannot.

Both arms of a claim have the same seeds, data and steps. **Seen**: every seed of the arm that the paper prefers is
better than every seed of the other. **Not seen**: the other way round. **Undecided**: the seeds overlap, or nothing is
better than chance. Figures are of the held-out digits; the arrow says which way is better.
"""


def write_page(out: Path, claims: Iterable[Claim], folder: Path) -> None:
    """Writes the page of the claims that have figures in `folder`."""
    found = [(claim, _seeds(claim, folder)) for claim in claims]
    write_text(out, render([(claim, seeds) for claim, seeds in found if seeds]))


def render(found: Sequence[tuple[Claim, Mapping[int, Mapping[str, Any]]]]) -> str:
    """The page: an overview, then each claim.

    Args:
        found: each claim with what was kept of it, by seed.
    """
    overview = [row for claim, seeds in found for row in _overview(claim, seeds)]
    parts = [PREFACE, *report.table(overview), ""]
    for claim, seeds in found:
        parts += _section(claim, seeds)
    return "\n".join(parts)


def made_on() -> dict[str, str]:
    """The commit and the machine."""
    return {"commit": report.commit(), "machine": f"one core of {report.processor()}"}


def _seeds(claim: Claim, folder: Path) -> dict[int, dict[str, Any]]:
    paths = sorted((folder / claim.key).glob("*.json"), key=lambda path: int(path.stem))
    return {int(path.stem): read(path) for path in paths}


def _overview(claim: Claim, seeds: Mapping[int, Mapping[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for figure in claim.figures:
        base, better = (_values(seeds, arm, figure) for arm in (claim.base, claim.better))
        rows.append(
            {
                "claim": claim.title,
                "figure": _named(figure),
                "without": _mean(figure, base),
                "with": _mean(figure, better),
                "at this scale": f"**{verdict(figure, base, better)[0]}**",
            }
        )
    return rows


def _section(claim: Claim, seeds: Mapping[int, Mapping[str, Any]]) -> list[str]:
    arms = list(next(iter(seeds.values()))["figures"])
    rows, said = [], []
    for figure in claim.figures:
        for arm in arms:
            values = _values(seeds, arm, figure)
            each = {f"seed {seed}": f"{value:.{figure.digits}f}" for seed, value in zip(seeds, values, strict=True)}
            rows.append({"figure": _named(figure), "arm": arm, **each, "mean": _mean(figure, values)})
        word, why = verdict(figure, _values(seeds, claim.base, figure), _values(seeds, claim.better, figure))
        said.append(f"- {figure.name}: **{word}**; {why}.")
    made = sorted({f"{kept['date']}, commit {kept['commit']}, {kept['machine']}" for kept in seeds.values()})
    paper = f"The paper ({claim.where}): {claim.says}"
    table = report.table(rows)
    capped = sorted({kept["steps"] for kept in seeds.values() if kept["steps"]})
    trial = [f"A TRIAL: no run has more than {capped[0]} steps.", ""] if capped else []
    foot = f"`python -m benchmarks.claims docs/claims.md {claim.key}`, {'; '.join(made)}."
    return [f"## {claim.title}", "", paper, "", claim.setting, "", *trial, *table, "", *said, "", foot, ""]


def _values(seeds: Mapping[int, Mapping[str, Any]], arm: str, figure: Figure) -> list[float]:
    return [kept["figures"][arm][figure.name] for kept in seeds.values()]


def _mean(figure: Figure, values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.{figure.digits}f}"


def _named(figure: Figure) -> str:
    chance = "" if figure.chance is None else f" (chance {figure.chance:g})"
    return f"{figure.name}{chance} {'↑' if figure.up else '↓'}"
