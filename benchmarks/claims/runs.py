"""The commands that a claim is made of, each run once: called again after a kill, a claim goes on where it was."""

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.training.metrics import read_metrics

Call = Callable[[Sequence[str]], None]
HELD_OUT = ("digits", "split=held_out")


def command(words: Sequence[str]) -> None:
    """Runs a module of ours in a process of its own, so that nothing of one run reaches the next.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    print(shlex.join(["python", "-m", *words]), flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Training runs and evaluations of one seed.

    Attributes:
        folder: of their workdirs, results and marks.
        seed: of every training run in it.
        steps: caps the steps of each run, for trials; 0 leaves them.
        call: runs a command: a module's name and its arguments.
    """

    folder: Path
    seed: int
    steps: int = 0
    call: Call = command

    def train(self, name: str, recipe: str, steps: int, **config: Any) -> str:
        """Trains a recipe of `configs/demo` in the workdir `name`.

        Args:
            name: of the workdir.
            recipe: file and words, such as ``uniwetok_tokenizer.py:no_siglu``.
            steps: of the run, in the place of the recipe's.
            config: ``--config`` overrides, dots written as two underscores.

        Returns:
            The workdir.
        """
        steps, workdir = self.capped(steps), str(self.folder / name)
        given = {
            "steps": steps,
            "checkpoint_every": steps,
            "seed": self.seed,
            **{key.replace("__", "."): value for key, value in config.items()},
        }
        words = [f"--config.{key}={value}" for key, value in given.items()]
        self.once(name, "unitok_jax.cli", "train", "--config", f"configs/demo/{recipe}", "--workdir", workdir, *words)
        return workdir

    def capped(self, steps: int) -> int:
        """So many steps, or fewer in a trial."""
        return min(steps, self.steps or steps)

    def evaluate(self, workdir: str, suite: str, *options: str) -> dict[str, float]:
        """What `unitok evaluate` says of a run."""
        out = Path(workdir) / suite
        words = ("--workdir", workdir, "--suite", suite, *options, "--out", str(out))
        self.once(f"{Path(workdir).name}-{suite}", "unitok_jax.cli", "evaluate", *words)
        if suite == "digits":
            return read(out / "metrics.json")
        return read(out / "result.json")["figures"]

    def once(self, name: str, *words: str) -> None:
        """Runs a command unless the mark `name` says that this very command is done."""
        mark = self.folder / "done" / f"{name}.json"
        if mark.exists() and read(mark) == list(words):
            return
        self.call(words)
        write(mark, list(words))


def held_out_row(workdir: str) -> Mapping[str, float]:
    """The last validation of a run, by name without ``validation/held_out/``."""
    before = "validation/held_out/"
    found = [
        {k.removeprefix(before): v for k, v in row.items() if k.startswith(before)} for row in read_metrics(workdir)
    ]
    return [row for row in found if row][-1]


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    """A JSON file, never seen half written."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """A JSONL file, never seen half written."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def write_text(path: Path, text: str) -> None:
    """A file, never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text)
    draft.replace(path)
