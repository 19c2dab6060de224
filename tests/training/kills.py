"""kill -9 at chosen moments of a run that is started again and again."""

import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MOMENTS = {  # a line on standard error after which to kill, and the longest time between
    "start-up": (None, 3.0),
    "compile": ("compiling for", 1.0),
    "restore": ("goes on from", 0.3),
    "steps": (": step ", 0.3),
    "save": (None, 0.0),
    "saved": (None, 0.3),
}
FOLDERS = {"save": lambda name: "tmp" in name, "saved": str.isdigit}  # among the checkpoints, that are waited for


def run_killed(
    command: Sequence[str], workdir: Path, moments: Sequence[str], seed: int, env: Mapping[str, str] | None = None
) -> list[str]:
    """Runs until the end, killed once at each of `moments`.

    Moments are those of `MOMENTS`, ``save`` (while a step is written) and ``saved`` (up to 0.3 s after one is there).

    Returns:
        The moments at which a kill found the run alive.
    """
    draw, done = random.Random(seed), []
    for moment in moments:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        _wait(process, moment, workdir, draw)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=300)
        if process.returncode == -signal.SIGKILL:
            done.append(moment)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return done


def _wait(process: subprocess.Popen, moment: str, workdir: Path, draw: random.Random) -> None:
    if moment in FOLDERS:
        while process.poll() is None and not any(FOLDERS[moment](path.name) for path in _checkpoints(workdir)):
            time.sleep(0.0005)
    words, most = MOMENTS[moment]
    if words is not None:
        next((line for line in process.stderr if words in line), None)
    time.sleep(draw.uniform(0, most))


def _checkpoints(workdir: Path) -> list[Path]:
    folder = workdir / "checkpoints"
    return list(folder.iterdir()) if folder.exists() else []
