"""Conversations: what of them the model is shown, turn by turn."""

import types

import numpy as np

from unitok_jax.data.example import IMAGE, Task
from unitok_jax.inference.chat import Chat
from unitok_jax.inference.pipeline import Answer
from unitok_jax.inference.settings import InferenceSettings

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
