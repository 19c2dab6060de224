"""The toy system in the place of the real ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `training_toy`, whatever pytest's import mode

import training_toy

from unitok_jax.systems import base


@pytest.fixture(autouse=True)
def toy_system(monkeypatch):
    """`config.system` is ignored: every run trains the toy."""
    monkeypatch.setattr(base, "build", lambda name, model: training_toy.ToySystem(model))
