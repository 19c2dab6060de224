"""The roll call before a run of several processes: who is here, who is missing, told while one waits.

JAX's own start waits in silence, then ends all processes at once. Here process 0 listens at the coordinator's address
before JAX does, the others report there with the name of their host, and all go on, or give up with the same words.
"""

import json
import socket
import sys
import time
from collections.abc import Iterable, Mapping

from unitok_jax.errors import UserError

TELL_EVERY = 15.0  # seconds between two reports of who is missing
ALL_HERE = "all here"


def roll_call(coordinator: str, processes: int, process: int, timeout: float) -> None:
    """Returns once all processes have called it; each says on standard error whom it waits for.

    Args:
        coordinator: ``host:port`` of process 0; the port is free again afterwards.
        processes: how many there are.
        process: the index of this one.
        timeout: seconds to wait.

    Raises:
        UserError: naming the processes that did not come, or two that have the same index.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"coordinator {coordinator!r}: expected host:port")
    if not 0 <= process < processes:
        raise UserError(f"process {process} of {processes}: indices count from 0 to {processes - 1}")
    deadline = time.monotonic() + timeout
    if process:
        _report((host.strip("[]"), int(port)), process, deadline, timeout)
    else:
        _gather(int(port), processes, deadline, timeout)


def missing(here: Mapping[int, str], processes: int) -> str:
    """Who is missing and who is here, in words."""
    absent = [index for index in range(processes) if index not in here]
    present = ", ".join(f"{index} ({name})" for index, name in sorted(here.items()))
    return f"missing {len(absent)} of {processes} processes: {_ranges(absent)}; here: {present}"


def _gather(port: int, processes: int, deadline: float, timeout: float) -> None:
    """Process 0: hears everybody's report, then tells all of them how it ended."""
    here, lines = {0: socket.gethostname()}, []
    with _listen(port) as server:
        verdict = _hear_all(server, here, lines, processes, deadline)
    verdict = verdict or (ALL_HERE if len(here) == processes else f"{missing(here, processes)} after {timeout:.0f} s")
    for line in lines:
        with line:
            _send(line, verdict)
    _obey(verdict)


def _hear_all(
    server: socket.socket, here: dict[int, str], lines: list[socket.socket], processes: int, deadline: float
) -> str | None:
    """Fills `here` and `lines`; returns early with words if an index came twice."""
    told = time.monotonic()
    while len(here) < processes and time.monotonic() < deadline:
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            _tell(missing(here, processes))
        server.settimeout(min(1.0, max(deadline - time.monotonic(), 0.01)))
        try:
            line, _ = server.accept()
        except TimeoutError:
            continue
        report = _read(line)
        if report is None:  # somebody else knocked
            line.close()
            continue
        lines.append(line)
        index, name = report
        if index in here or not index < processes:
            return f"process {index} of {processes} reports from {name}, but {_taken(here, index, processes)}"
        here[index] = name
    return None


def _taken(here: Mapping[int, str], index: int, processes: int) -> str:
    if index in here:
        return f"{here[index]} has that index already"
    return f"the indices count from 0 to {processes - 1}"


def _report(address: tuple[str, int], process: int, deadline: float, timeout: float) -> None:
    """The others: report to process 0, and wait for its word."""
    told = time.monotonic()
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=2) as line:
                _send(line, json.dumps([process, socket.gethostname()]))
                line.settimeout(max(deadline - time.monotonic(), 0) + TELL_EVERY)
                if verdict := _line(line):
                    return _obey(verdict)
        except OSError:
            pass
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            _tell(f"process {process} waits for process 0 at {address[0]}:{address[1]}")
        time.sleep(0.2)
    _obey(f"process {process} found no process 0 at {address[0]}:{address[1]} within {timeout:.0f} s")


def _obey(verdict: str) -> None:
    if verdict != ALL_HERE:
        raise UserError(f"start-up: {verdict}; see that each host runs the same command, and start all of them anew")


def _listen(port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError as error:
        raise UserError(f"coordinator: cannot listen on port {port} ({error.strerror}); take another port") from error


def _read(line: socket.socket) -> tuple[int, str] | None:
    line.settimeout(2)
    try:
        index, name = json.loads(_line(line))
        return int(index), str(name)
    except (OSError, ValueError, TypeError):
        return None


def _line(line: socket.socket) -> str:
    """One line of text; empty if the other side hung up."""
    with line.makefile("r", encoding="utf-8") as text:
        return text.readline(1 << 16).strip()


def _send(line: socket.socket, text: str) -> None:
    try:
        line.sendall(f"{text}\n".encode())
    except OSError as error:
        _tell(f"cannot answer a process ({error.strerror})")


def _tell(text: str) -> None:
    print(f"start-up: {text}", file=sys.stderr, flush=True)


def _ranges(indices: Iterable[int]) -> str:
    """``0, 2-5``"""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
