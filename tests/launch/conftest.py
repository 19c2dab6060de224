"""The stubs, for every test of the launch scripts."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `stubs`, whatever pytest's import mode

from stubs import Stubs


@pytest.fixture
def stubs(tmp_path) -> Stubs:
    """A fresh set of them."""
    return Stubs(tmp_path / "stubs", ("gcloud", "kubectl", "xpk", "srun", "scontrol"))
