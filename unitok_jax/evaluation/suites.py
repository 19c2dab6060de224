"""The suites that `unitok evaluate --suite` knows, by name."""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from unitok_jax.errors import UserError
from unitok_jax.evaluation import digits, reconstruction, report, zero_shot_suite
from unitok_jax.settings import near

Suite = Callable[[Any, Mapping[str, Any], epath.PathLike], dict[str, float]]

SUITES: Mapping[str, Suite] = {
    "digits": digits.evaluate,
    "reconstruction": reconstruction.evaluate,
    "zeroshot": zero_shot_suite.evaluate,
}
REPORTS: Mapping[str, Callable[..., epath.Path]] = {"digits": report.write_report}  # of the suites that have one


def suite(name: str) -> Suite:
    """Finds a suite: a function of (pipeline, config, output folder) that returns its figures by name.

    Raises:
        UserError: for an unknown name.
    """
    if name not in SUITES:
        raise UserError(f"--suite: no suite {name!r}.{near(name, SUITES)}")
    return SUITES[name]
