"""What the page takes and refuses; no gradio, no model."""

import types

import numpy as np
import pytest
from PIL import Image

from unitok_jax.errors import UserError
from unitok_jax.inference.chat import Chat
from unitok_jax.inference.pipeline import Answer
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.web.actions import Actions, Limits


class Fake:
    """Remembers how it was asked."""

    params = types.MappingProxyType({"lm": {}})

    def drawing(self, prompt, **how):
        if prompt == "broken":
            raise KeyError("vqgan")
        yield prompt, how


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((1, 65, 3), np.uint8)).save(folder / "wide.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 50, 3), dtype=np.uint8)).save(folder / "b.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (tmp_path / "secret.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


@pytest.fixture
def actions(uploads):
    config = types.SimpleNamespace(stage="lm")
    return Actions(Fake(), config, uploads, Limits(letters=20, side=64, codes=100, turns=2))


def test_a_drawing_is_asked_for_as_said(actions, uploads):
    assert list(actions.draw(" a seven ", 2, 3.0, "")) == [
        ("a seven", {"image": None, "guidance": 2.0, "seed": 3, "grid": None})
    ]
    ((_, how),) = actions.draw("red", 1.5, 0, "8x12", str(uploads / "a.png"))
    assert how["grid"] == (8, 12) and how["image"].shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", 2, 0, ""), "the prompt is empty"),
        (("x" * 21, 2, 0, ""), "21 letters; 20 at most"),
        ((None, 2, 0, ""), "the prompt is empty"),
        (("x", 0.5, 0, ""), "guidance: expected a number from 1 to 20"),
        (("x", float("nan"), 0, ""), "guidance: expected"),
        (("x", None, 0, ""), "guidance: expected"),
        (("x", 2, -1, ""), "seed: expected a whole number"),
        (("x", 2, 2**31, ""), "seed: expected a whole number"),
        (("x", 2, 0.5, ""), "seed: expected a whole number"),
        (("x", 2, 0, "8"), "size: expected ROWSxCOLUMNS"),
        (("x", 2, 0, "11x10"), "100 codes at most"),
        (("x", 2, 0, "0x9"), "size: expected"),
        (("broken", 2, 0, ""), "this command also needs 'vqgan'"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(actions, given, message):
    with pytest.raises(UserError, match=message):
        list(actions.draw(*given))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "not an uploaded picture"),
        ("link.png", "not an uploaded picture"),
        ("gone.png", "not an uploaded picture"),
        ("broken.png", "image cannot be decoded; upload a PNG or JPEG"),
        ("wide.png", "larger than 64 pixels a side"),
        ("/etc/passwd", "not an uploaded picture"),
    ],
)
def test_no_file_but_an_uploaded_picture_is_read(actions, uploads, name, message):
    with pytest.raises(UserError, match=message):
        actions.read(str(uploads / name))


def test_a_large_file_is_refused_unread(uploads):
    actions = Actions(Fake(), types.SimpleNamespace(stage="lm"), uploads, Limits(megabytes=0))
    with pytest.raises(UserError, match="larger than 0 MB"):
        actions.read(str(uploads / "b.png"))
    with pytest.raises(UserError, match="upload one first"):
        actions.read(None)


def test_a_conversation_has_an_end(actions):
    def answer(examples, decoding, seed):
        return [Answer(f"{len(examples[0].turns)}", [])]

    talk = Chat(types.SimpleNamespace(answer=answer, settings=InferenceSettings()))
    assert [actions.say(talk, "hello", None, False).text for _ in range(2)] == ["1", "3"]
    with pytest.raises(UserError, match="2 turns, the most there may be"):
        actions.say(talk, "hello", None, False)
