"""Conversations: what of them the model is shown, turn by turn."""

import types

import numpy as np
import pytest

from unitok_jax.data.example import IMAGE, Task
from unitok_jax.errors import UserError
from unitok_jax.inference.chat import Chat
from unitok_jax.inference.pipeline import Answer
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.sampling.settings import Decoding

PICTURE = np.full((4, 6, 3), 9, np.uint8)
DRAWN = np.full((16, 16, 3), 3, np.uint8)


def talk(*answers):
    """A chat whose model gives these answers, and the (example, seed) that it is asked."""
    asked, given = [], iter(answers)

    def answer(examples, decoding, seed):
        asked.append((*examples, seed))
        return [next(given)]

    def decode(codes):
        assert codes.shape == (1, 2, 2)
        return DRAWN[None]

    return Chat(types.SimpleNamespace(answer=answer, decode=decode, settings=InferenceSettings()), seed=7), asked


def test_every_turn_is_asked_with_all_before_it_in_view():
    chat, asked = talk(Answer("a cat", []), Answer("here", [np.zeros((2, 2))]), Answer("yes", []))
    assert chat.say("what is it?", [PICTURE]).text == "a cat"
    reply = chat.say("draw it", draw=True)
    assert reply.text == "here" and np.array_equal(reply.images, [DRAWN])
    chat.say(f"is {IMAGE} the same?", [PICTURE + 1])
    assert chat.turns == 3
    (first, one), (second, two), (third, three) = asked
    assert [turn.text for turn in first.turns] == [IMAGE + "what is it?"]
    assert [turn.role for turn in second.turns] == ["user", "assistant", "user"]
    assert (first.task, second.task, third.task) == (Task.UNDERSTANDING, Task.GENERATION, Task.UNDERSTANDING)
    assert third.turns[3].text == "here" + IMAGE
    assert [image[0, 0, 0] for image in third.images] == [9, 3, 10]
    assert (one, two, three) == (7, 8, 9)


def test_what_was_drawn_among_words_stays_there():
    chat, asked = talk(Answer(f"see {IMAGE} here", [np.zeros((2, 2))]), Answer("yes", []))
    assert chat.say("draw it").text == "see here"
    chat.say("again")
    assert [turn.text for turn in asked[1][0].turns] == ["draw it", f"see {IMAGE} here", "again"]


def test_where_pictures_are_decoded_by_a_grid_a_request_for_one_is():
    settings = InferenceSettings(draw=Decoding(grid=(2, 2), guidance=3.0))
    drawn = Answer("", [np.zeros((2, 2))])
    asked = []

    def answer(examples, decoding, seed):
        asked.append(decoding)
        return [drawn if decoding.grid else Answer("words", [])]

    pipeline = types.SimpleNamespace(answer=answer, decode=lambda codes: DRAWN[None], settings=settings)
    chat = Chat(pipeline, guidance=5.0)
    assert chat.say("a cat").text == "words" and len(chat.say("a cat", draw=True).images) == 1
    assert [(decoding.grid, decoding.guidance) for decoding in asked] == [(None, 5.0), ((2, 2), 5.0)]


def test_words_in_the_place_of_a_picture_are_refused():
    chat, _ = talk(Answer("noise", []))
    with pytest.raises(UserError, match=r"no whole picture .* config.inference.draw.grid"):
        chat.say("a cat", draw=True)


def test_a_turn_that_fails_is_not_remembered():
    chat, asked = talk(Answer("a", []))

    def refuse(*_):
        raise ValueError

    kept, chat._pipeline.answer = chat._pipeline.answer, refuse
    try:
        chat.say("x")
    except ValueError:
        chat._pipeline.answer = kept
    chat.say("y")
    assert [turn.text for turn in asked[0][0].turns] == ["y"]
