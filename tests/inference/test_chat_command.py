"""`unitok chat` on a terminal and in a pipe, around a model that repeats what it hears."""

import contextlib
import io
import sys

import pytest

from unitok_jax.cli import chat, main
from unitok_jax.inference.chat import Reply


class Talk:
    def __init__(self, pipeline, **_):
        pass

    def say(self, text, images, *, draw):
        return Reply(f"{len(images)} {text}", [])


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def hear(monkeypatch, capsys):
    """Says lines; returns the exit code, what was printed, and the errors."""
    monkeypatch.setattr(chat, "load_run", lambda workdir, mesh: (None, None))
    monkeypatch.setattr(chat, "using", lambda pipeline, config: contextlib.nullcontext())
    monkeypatch.setattr(chat, "Chat", Talk)

    def said(stdin):
        monkeypatch.setattr(sys, "stdin", stdin)
        code = main(["chat", "--workdir", "run"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return said


TYPOS = "hello\n/image it's.png\n/image gone.png\n/imag x\nbye\n"


def test_a_typo_on_a_terminal_does_not_end_the_conversation(hear):
    code, out, err = hear(Terminal(TYPOS))
    assert (code, out) == (0, "0 hello\n0 bye\n")
    assert err.count("error: ") == 3 and "No closing quotation" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image it's.png", "No closing quotation; put the name in quotes"),
        ("/image gone.png", "gone.png"),
        ("/imag x", "/imag: no such command of a chat"),
    ],
)
def test_in_a_pipe_it_does(hear, line, message):
    code, out, err = hear(io.StringIO(f"hello\n{line}\nbye\n"))
    assert (code, out) == (2, "0 hello\n")
    assert err.count("\n") == 1 and message in err
