"""How the page is opened; no gradio, no model."""

import pytest

from unitok_jax import cli
from unitok_jax.errors import UserError
from unitok_jax.web import page


def test_the_mesh_reaches_the_model(monkeypatch, capsys):
    asked = []

    def load_run(workdir, mesh):
        asked.append((workdir, mesh))
        raise UserError("that is far enough")

    monkeypatch.setattr(page, "_gradio", lambda folder: None)
    monkeypatch.setattr(page, "load_run", load_run)
    assert cli.main(["serve", "--workdir", "run", "--mesh", "data=2"]) == 2
    assert asked == [("run", "data=2")] and "far enough" in capsys.readouterr().err


@pytest.mark.parametrize("mesh", ["data=3", "dat=1"])
def test_a_mesh_that_does_not_fit_is_refused(monkeypatch, capsys, mesh):
    monkeypatch.setattr(page, "_gradio", lambda folder: None)
    assert cli.main(["serve", "--workdir", "run", "--mesh", mesh]) == 2
    assert "--mesh" in capsys.readouterr().err
