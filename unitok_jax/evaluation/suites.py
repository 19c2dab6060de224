"""The suites that `unitok evaluate --suite` knows, by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from unitok_jax.errors import UserError
from unitok_jax.evaluation import (
    benchmarks,
    digit_scenes,
    digits,
    reconstruction,
    report,
    scene_report,
    zero_shot_suite,
)
from unitok_jax.settings import near

Suite = Callable[[Any, Mapping[str, Any], epath.PathLike], dict[str, float]]

Report = Callable[[epath.PathLike, Mapping[str, report.Rows], Iterable[str]], epath.Path]

SUITES: Mapping[str, Suite] = {
    "digits": digits.evaluate,
    "digit_scenes": digit_scenes.evaluate,
    "reconstruction": reconstruction.evaluate,
    "zeroshot": zero_shot_suite.evaluate,
    **benchmarks.SUITES,
}
ANSWERED = ("pope", "mme", "seed", "seedbench", "gqa", "mmmu", "mmbench", "mmvet", "textvqa", "vqav2")
"""Suites of understanding that lmms-eval has; `unitok_jax` answers there."""
REPORTS: Mapping[str, Report] = {"digits": report.write_report, "digit_scenes": scene_report.write_report}
"""Writes a page from the files that a suite left: (its folder, metrics by stage, commands) -> the page."""


def suite(name: str) -> Suite:
    """Finds a suite: a function of (pipeline, config, output folder) that returns its figures by name.

    Raises:
        UserError: for an unknown name.
    """
    if name.lower().split("_")[0] in ANSWERED:
        raise UserError(
            f"--suite {name}: lmms-eval asks and scores it: pip install 'unitok-jax[lmms]', then python -m lmms_eval "
            "--model unitok_jax --model_args workdir=WORKDIR --tasks ... (docs/evaluation.md)"
        )
    if name not in SUITES:
        raise UserError(f"--suite: no suite {name!r}.{near(name, SUITES)}")
    return SUITES[name]
