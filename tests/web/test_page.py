"""What the page asks of gradio, by a stand-in that remembers; in an environment with gradio, what that makes of it."""

import types
from unittest import mock

import pytest

from unitok_jax import cli
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.web import page
from unitok_jax.web.actions import Actions


def actions(tmp_path, *tasks):
    """Of a model that nobody asks, whose recipe has sources of these tasks."""
    config = types.SimpleNamespace(system="toy", stage="lm", data={"train": [{"task": task} for task in tasks]})
    return Actions(types.SimpleNamespace(settings=InferenceSettings()), config, tmp_path)


def test_the_tabs_share_one_place_at_the_model(tmp_path):
    gradio = mock.MagicMock()
    page.build(gradio, actions(tmp_path))
    clicks = [call.kwargs for call in gradio.Button.return_value.click.call_args_list]
    working = [how for how in clicks if how.get("concurrency_id") == "model"]
    assert [how["concurrency_limit"] for how in working] == [1] * 4
    assert len(clicks) == 5  # and "Begin anew", which asks nothing of the model


def test_gradio_takes_one_request_at_a_time(tmp_path):
    gradio = pytest.importorskip("gradio")
    events = page.build(gradio, actions(tmp_path)).fns.values()
    working = [event for event in events if event.concurrency_id == "model"]
    assert [event.concurrency_limit for event in working] == [1] * 4 and len(events) == 6


def test_what_empties_the_conversation_empties_the_memory(tmp_path):
    gradio = mock.MagicMock()
    page.build(gradio, actions(tmp_path))
    talk, shown = gradio.State.return_value, gradio.Chatbot.return_value
    ((empty, _, parts), _), *more = shown.clear.call_args_list
    assert not more
    emptied = dict(zip(map(id, parts), empty(), strict=True))
    assert emptied[id(talk)] is None and emptied[id(shown)] == []


@pytest.mark.parametrize(
    ("tasks", "noted"), [((), True), (("caption", "generate"), True), (("caption", "edit"), False)]
)
def test_a_model_that_never_learnt_edits_says_so(tmp_path, tasks, noted):
    gradio = mock.MagicMock()
    page.build(gradio, actions(tmp_path, *tasks))
    assert (mock.call(page.NO_EDITS) in gradio.Markdown.call_args_list) == noted


def test_a_wrong_mesh_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(page, "_gradio", lambda folder: mock.MagicMock())
    assert cli.main(["serve", "--workdir", "gone", "--mesh", "tensr=2"]) == 2
    assert "--mesh tensr=2: no axis 'tensr'. Did you mean tensor?" in capsys.readouterr().err
