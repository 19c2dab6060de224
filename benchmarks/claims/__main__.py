"""`make claims`: the papers' findings at small scale on the digits, into a table. Killed and called again, it goes on.

    python -m benchmarks.claims docs/claims.md [CLAIM...] [--runs runs/claims] [--seeds 0 1 2] [--steps 0]

Each claim is two arms of ordinary `unitok train` runs of the demos' recipes and an ordinary evaluation of each. The
figures of a seed are kept in RUNS/CLAIM/SEED.json; the page is made of all that are there, after each seed anew.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims import dualtoken, page, tar, uniwetok
from benchmarks.claims.claim import Claim
from benchmarks.claims.runs import Runs, read, write

CLAIMS = {claim.key: claim for claim in (*dualtoken.CLAIMS, *uniwetok.CLAIMS, *tar.CLAIMS)}
SEEDS = (0, 1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims")
    parser.add_argument("out", type=Path, help="the page")
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(CLAIMS)} (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=0, help="at most so many steps a run, to try the commands")
    args = parser.parse_args(argv)
    unknown = [name for name in args.claims if name not in CLAIMS]
    if unknown:
        parser.error(f"no claim {unknown[0]!r}; known: {', '.join(CLAIMS)}")
    for name in args.claims or CLAIMS:
        for seed in args.seeds:
            look(CLAIMS[name], Runs(args.runs / CLAIMS[name].system / f"seed{seed}", seed, args.steps), args.runs)
            page.write_page(args.out, CLAIMS.values(), args.runs)


def look(claim: Claim, runs: Runs, folder: Path) -> None:
    """Measures a claim with one seed, unless its figures are there; they are kept with what made them."""
    kept = folder / claim.key / f"{runs.seed}.json"
    if kept.exists() and read(kept)["steps"] == runs.steps:
        return
    figures = claim.measure(runs)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    write(kept, {"figures": figures, "steps": runs.steps, "date": date, **page.made_on()})


if __name__ == "__main__":
    sys.exit(main())
