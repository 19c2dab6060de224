"""Who is missing at the start of a run of several processes, and how it is told."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from unitok_jax.errors import UserError
from unitok_jax.parallel import roll_call as calls
from unitok_jax.parallel.roll_call import missing, roll_call


def gather(port: int, processes: int, present: list[int], timeout: float) -> list[str]:
    """What each of the processes that are there is told; empty where it may go on."""

    def call(process: int) -> str:
        try:
            roll_call(f"localhost:{port}", processes, process, timeout)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(present)) as pool:
        return list(pool.map(call, present))


def test_all_come(free_port):
    assert gather(free_port, 4, [3, 1, 0, 2], 20) == [""] * 4
    assert gather(free_port, 2, [0, 1], 20) == [""] * 2  # the port is free again


def test_all_are_told_who_is_missing(free_port, monkeypatch, capsys):
    monkeypatch.setattr(calls, "TELL_EVERY", 0.5)
    told = gather(free_port, 8, [0, 1, 5], 2.0)
    host = socket.gethostname()
    words = f"missing 5 of 8 processes: 2-4, 6-7; here: 0 ({host}), 1 ({host}), 5 ({host})"
    assert all(words in text and "after 2 s" in text for text in told)
    assert words in capsys.readouterr().err, "told while waiting, too"


def test_without_process_0(free_port):
    (told,) = gather(free_port, 2, [1], 1.0)
    assert f"found no process 0 at localhost:{free_port} within 1 s" in told


def test_an_index_that_comes_twice(free_port):
    told = gather(free_port, 3, [0, 1, 1], 10)
    assert all("process 1 of 3 reports from" in text and "has that index already" in text for text in told)


def test_strangers_do_not_count(free_port):
    def knock() -> None:
        for _ in range(50):
            try:
                with socket.create_connection(("localhost", free_port), timeout=1) as line:
                    return line.sendall(b"GET / HTTP/1.1\r\n\r\n")
            except OSError:
                threading.Event().wait(0.02)

    stranger = threading.Thread(target=knock)
    stranger.start()
    assert gather(free_port, 2, [0, 1], 20) == ["", ""]
    stranger.join()


def test_a_port_in_use_and_wrong_indices(free_port):
    with socket.create_server(("", free_port)), pytest.raises(UserError, match="cannot listen on port"):
        roll_call(f"localhost:{free_port}", 2, 0, 1)
    with pytest.raises(UserError, match=r"process 2 of 2: indices count from 0 to 1"):
        roll_call("localhost:1", 2, 2, 1)
    with pytest.raises(UserError, match="expected host:port"):
        roll_call("localhost", 2, 0, 1)


def test_who_is_missing_in_words():
    assert missing({0: "a"}, 2) == "missing 1 of 2 processes: 1; here: 0 (a)"
