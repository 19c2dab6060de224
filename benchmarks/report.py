"""Tables: printed, and written as Markdown and JSON with what is needed to measure again."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.contest import Times
from benchmarks.options import Options
from unitok_jax.errors import writing
from unitok_jax.parallel.chips import chip_of

PACKAGES = ("unitok-jax", "jax", "jaxlib", "flax", "torch", "transformers")


@dataclasses.dataclass
class Row:
    """One line of a table.

    Attributes:
        name: what was run.
        amount, unit: what one run gets done, such as 512 ``tokens``.
        times: by contestant; ours is called ``ours``.
        flops: of one run, by the formula of `unitok_jax.training.flops`; None where they are not counted.
        more: further columns.
    """

    name: str
    amount: float
    unit: str
    times: dict[str, Times]
    flops: float | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def columns(self) -> dict[str, str]:
        """What the table shows: a time and a rate of each, their ratio, FLOP/s and MFU where they are known."""
        shown = {"what": self.name}
        for name, times in self.times.items():
            shown[f"{name} ms"] = f"{1000 * times.median:.1f}"
            shown[f"{name} {self.unit}/s"] = f"{self.amount / times.median:,.1f}"
        shown |= {f"{name} / ours": f"{ratio:.2f}" for name, ratio in self.ratios().items()}
        if jax.default_backend() == "cpu":
            shown |= {f"{name} / ours, CPU time": f"{ratio:.2f}" for name, ratio in self.ratios(cpu=True).items()}
        chip = chip_of(jax.devices()[0])
        for name, times in self.times.items() if self.flops else ():
            shown[f"{name} TFLOP/s"] = f"{self.flops / times.median / 1e12:.3f}"
            if chip:
                shown[f"{name} MFU"] = f"{self.flops / times.median / chip.flops:.1%}"
        spread = max(times.spread for times in self.times.values())
        return shown | {key: str(value) for key, value in self.more.items()} | {"spread": f"{spread:.0%}"}

    def ratios(self, cpu: bool = False) -> dict[str, float]:
        """The time (or the threads' time) of each other contestant over ours: above 1 we are faster."""
        medians = {name: times.median_cpu if cpu else times.median for name, times in self.times.items()}
        return {name: median / medians["ours"] for name, median in medians.items() if name != "ours"}


def publish(name: str, title: str, options: Options, rows: Sequence[Row]) -> None:
    """Prints a table and writes it to ``OUT/NAME.md`` and ``OUT/NAME.json``.

    Args:
        name: of the benchmark, with ``-`` and a variant behind it.
        title: of the table.
        options: what was asked.
        rows: the table.

    Raises:
        UserError: if it cannot be written.
    """
    facts = {"command": _command(name, options), **machine(options), "versions": versions()}
    lines = [f"## {title}", "", *table([row.columns() for row in rows]), ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "versions"]
    lines += ["- versions: " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items())]
    print("\n".join(lines), flush=True)
    found = [dataclasses.asdict(row) | {"ratios": row.ratios()} for row in rows]
    with writing(options.out):
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
        (folder / f"{name}.json").write_text(json.dumps({"title": title, **facts, "rows": found}, indent=1) + "\n")


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Rows of named cells as lines of a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    body = [[row.get(name, "") for name in names] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *body)]


def machine(options: Options) -> dict[str, Any]:
    """Where and when it ran, and how busy the machine was with other things."""
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{options.cores} cores of {processor()}" if options.device == "cpu" else _gpu(),
        "dtype": options.dtype,
        "rounds": options.rounds,
        "load": f"{os.getloadavg()[0]:.1f} over the last minute, {os.cpu_count()} cores in all",
    }


def peak_memory(torch: Any, options: Options) -> dict[str, str]:
    """The most of a GPU's memory that each side held so far, by its own books, as columns; none on a CPU."""
    if options.device == "cpu":
        return {}
    ours = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    peaks = {"ours": ours, "torch": torch.cuda.max_memory_allocated()}
    return {f"{name} peak": f"{count / 2**30:.1f} GiB" for name, count in peaks.items()}


def versions() -> dict[str, str]:
    """Python and the packages that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _command(name: str, options: Options) -> str:
    return " ".join(["python -m", f"benchmarks.{name.partition('-')[0]}", *options.words])


def commit() -> str:
    """The commit of this checkout, with ``-dirty`` where files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip() or "unknown"


def _gpu() -> str:
    return jax.devices()[0].device_kind


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
