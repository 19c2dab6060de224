"""What every benchmark is asked and how it starts: device, type, cores, threads, torch beside us."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from unitok_jax.errors import UserError
from unitok_jax.parallel.cpu_flags import set_cpu_flags
from unitok_jax.settings import near


@dataclasses.dataclass(frozen=True)
class Options:
    """What was asked.

    Attributes:
        preset: the sizes' name.
        device: ``cpu`` or ``gpu``.
        dtype: what is computed in.
        cores: CPU cores, and threads of either side; 0 on a GPU.
        rounds: timed runs of each contestant.
        out: folder for the results.
        words: the arguments as they were given.
        extra: what a benchmark adds.
    """

    preset: str
    device: str
    dtype: str
    cores: int
    rounds: int
    out: str
    words: tuple[str, ...]
    extra: argparse.Namespace

    def pick(self, presets: dict[str, Any]) -> Any:
        """The sizes that `preset` names.

        Raises:
            UserError: for a name that there is none of.
        """
        if self.preset not in presets:
            raise UserError(f"--preset {self.preset}: no such sizes.{near(self.preset, presets)}")
        return presets[self.preset]


def main(
    argv: Sequence[str] | None, doc: str, run: Callable[[Options], None], add: Callable[[Any], None] = lambda _: None
) -> int:
    """Reads the arguments, prepares the device, runs; a mistake is told in one line.

    Args:
        argv: the arguments; by default the process's own.
        doc: what the benchmark is.
        run: the benchmark.
        add: adds options of its own.

    Returns:
        The exit code: 0, or 2 for a mistake.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", help="sizes: tiny, cpu, or real widths (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores and threads, each side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each (default: %(default)s)")
    parser.add_argument("--out", default="runs/benchmarks", metavar="DIR", help="for JSON and Markdown (%(default)s)")
    add(parser)
    words = tuple(sys.argv[1:] if argv is None else argv)
    values = vars(parser.parse_args(words)) | {"words": words}
    own = {f.name: values.pop(f.name) for f in dataclasses.fields(Options) if f.name != "extra"}
    options = Options(**own, extra=argparse.Namespace(**values))
    try:
        with started(options):
            run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def started(options: Options) -> Iterator[None]:
    """Keeps the process to its cores and picks the device, before JAX touches one.

    Raises:
        UserError: for cores that are not there, or a device that JAX does not find.
    """
    free = os.sched_getaffinity(0)
    if options.device == "cpu":
        if not 1 <= options.cores <= len(free):
            raise UserError(f"--cores {options.cores}: this process may use {len(free)}")
        os.sched_setaffinity(0, sorted(free)[: options.cores])  # XLA takes as many threads as it may use cores
    set_cpu_flags()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory of the same GPU
    jax.config.update("jax_platforms", "cpu" if options.device == "cpu" else "cuda,cpu")
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, free)


def searches(options: Options) -> bool:
    """Whether the largest batch is to be searched (``--largest``).

    Raises:
        UserError: on a CPU, where running out of memory ends the process.
    """
    if options.extra.largest and options.device == "cpu":
        raise UserError("--largest: only with --device gpu; a CPU's memory has no such edge")
    return options.extra.largest


def load_torch(options: Options) -> Any:
    """torch, with as many threads as we have, and products as exact as ours (TF32 on a GPU in float32).

    Raises:
        UserError: where it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError("this benchmark compares with torch: pip install 'unitok-jax[parity]'") from None
    if options.device == "cpu":
        torch.set_num_threads(options.cores)
    torch.set_float32_matmul_precision("high" if options.device == "gpu" else "highest")
    return torch
