"""Fixtures of the tests of several processes."""

import ports
import pytest


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return ports.free_port()
