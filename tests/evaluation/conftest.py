import pytest
from fakes import CONFIG, Oracle, Wrong

from unitok_jax.evaluation.digits import evaluate


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """(figures, folder) of a pipeline that is always right."""
    out = tmp_path_factory.mktemp("oracle")
    return evaluate(Oracle(), CONFIG, out), out


@pytest.fixture(scope="session")
def wrong(tmp_path_factory):
    """(figures, folder) of a pipeline that is never right."""
    out = tmp_path_factory.mktemp("wrong")
    return evaluate(Wrong(), CONFIG, out), out
