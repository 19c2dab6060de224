"""Finds the goldens: one test a case, and what was compared in the terminal summary."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_addoption(parser):
    parser.addoption(
        "--goldens",
        action="append",
        metavar="DIR",
        help="folder of <system>/<case>/; several allowed (default: tests/goldens/data and $UNITOK_GOLDENS)",
    )


def pytest_generate_tests(metafunc):
    """Cases from outside the repository are slow proofs, and their mutations exhaustive ones, unless asked for."""
    asked = metafunc.config.getoption("goldens", None)
    if "golden" in metafunc.fixturenames:
        metafunc.parametrize("golden", _params(find_cases(asked), None if asked else pytest.mark.slow))
    if "mutated" in metafunc.fixturenames:
        metafunc.parametrize("mutated", _params(find_cases(None), pytest.mark.exhaustive))


def find_cases(folders):
    """Case folders below those given; by default each (system, case) of the default folders once."""
    if folders:
        return [case for folder in folders for case in _below(Path(folder))]
    shared = Path(os.environ.get("UNITOK_GOLDENS", HERE.parents[2] / "shared" / "goldens"))
    found = {}
    for case in (*_below(HERE / "data"), *(_below(shared) if shared.is_dir() else ())):
        found.setdefault((case.parent.name, case.name), case)
    return list(found.values())


def _params(cases, mark):
    def marks(case):
        return () if mark is None or case.is_relative_to(HERE) else mark

    return [pytest.param(case, id=f"{case.parent.name}/{case.name}", marks=marks(case)) for case in cases]


def _below(folder):
    if not folder.is_dir():
        raise pytest.UsageError(f"--goldens: no folder {folder}")
    return sorted(path.parent for path in folder.glob("*/*/io.safetensors"))


def pytest_terminal_summary(terminalreporter):
    lines = []
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", ()))
            if "golden" in properties:
                lines.append((properties["golden"], outcome, properties["golden_counts"]))
    if lines:
        terminalreporter.section("goldens: tensors compared / total")
        for name, outcome, counts in sorted(set(lines)):
            terminalreporter.write_line(f"{name:44} {counts:24} {outcome}")
        outcomes = [outcome for _, outcome, _ in lines]
        counts = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
        terminalreporter.write_line(f"{len(lines)} cases: {counts}")
