"""Generation benchmarks: their prompts drawn into the folders that their own scorers read. Nothing is scored here.

Layouts, as the published scorers read them:

- GenEval (djghosh13/geneval, ``evaluation/evaluate_images.py``): ``<prompt:05>/samples/<number:05>.png`` beside
  ``<prompt:05>/metadata.jsonl``, the prompt's line of ``evaluation_metadata.jsonl``.
- DPG-Bench (TencentQQGYLab/ELLA, ``dpg_bench/compute_dpg_bench.py``): ``images/<name>.png`` of the prompt
  ``<name>.txt``, one picture, or four in a grid of 2 x 2.
- T2I-CompBench (Karine-Huang/T2I-CompBench, ``BLIPvqa_eval``, ``UniDet_eval``): ``samples/<prompt>_<number:06>.png``,
  numbered through all prompts; the scorers read the prompt off the name.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from einops import rearrange
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import UInt8

from unitok_jax.errors import UserError
from unitok_jax.evaluation import files, measured
from unitok_jax.evaluation.provenance import provenance
from unitok_jax.settings import from_config

_log = logging.getLogger(__name__)
SETTINGS = "settings.json"
PROMPTS = "prompts.jsonl"
LONGEST_NAME = 255  # bytes of a file name


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """The options of a suite.

    Attributes:
        prompts: the benchmark's own: GenEval's ``evaluation_metadata.jsonl``, DPG-Bench's folder of ``.txt`` files, or
            a category's text file of T2I-CompBench.
        samples: pictures of each prompt; 0 takes as many as the benchmark asks for.
        seed: of the first picture of each prompt; the next take the next numbers.
        guidance: in the place of the recipe's.
    """

    prompts: str = ""
    samples: int = 0
    seed: int = 0
    guidance: float | None = None


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One file: its path in the folder, and the prompt and seeds of its pictures (one, or four in a grid of 2 x 2)."""

    file: str
    prompt: str
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A benchmark's folder: the pictures, and by path the text that stands beside them."""

    wanted: list[Wanted]
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def geneval(prompts: epath.Path, seeds: Sequence[int]) -> Layout:
    """GenEval's folder; `prompts` is its ``evaluation_metadata.jsonl``."""
    wanted, texts = [], {}
    for index, line in enumerate(filter(None, prompts.read_text().splitlines())):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{prompts}:{index + 1}: expected a JSON object with a prompt; give GenEval's own"
            ) from None
        texts[f"{index:05d}/metadata.jsonl"] = line
        wanted += [Wanted(f"{index:05d}/samples/{n:05d}.png", prompt, (seed,)) for n, seed in enumerate(seeds)]
    return Layout(wanted, texts)


def dpg(prompts: epath.Path, seeds: Sequence[int]) -> Layout:
    """DPG-Bench's folder; `prompts` is its folder of text files."""
    if len(seeds) not in (1, 4):
        raise UserError(f"--samples {len(seeds)}: DPG-Bench takes 4 pictures of a prompt, in one file, or 1")
    paths = sorted(prompts.glob("*.txt"))
    return Layout([Wanted(f"images/{path.stem}.png", path.read_text().strip(), tuple(seeds)) for path in paths])


def t2i_compbench(prompts: epath.Path, seeds: Sequence[int]) -> Layout:
    """T2I-CompBench's folder of one category; `prompts` is a text file, what follows a tab in a line is not read."""
    wanted = []
    lines = [line.split("\t")[0] for line in prompts.read_text().splitlines()]
    for prompt in filter(None, lines):
        for seed in seeds:
            name = f"{prompt}_{len(wanted):06d}.png"
            if {"/", "_"} & set(prompt) or len(name.encode()) > LONGEST_NAME:
                raise UserError(f"{prompts}: the scorers read prompts off file names, which cannot hold {prompt!r}")
            wanted.append(Wanted(f"samples/{name}", prompt, (seed,)))
    return Layout(wanted)


BENCHMARKS: Mapping[str, tuple[Callable[[epath.Path, Sequence[int]], Layout], int]] = {
    "geneval": (geneval, 4),
    "dpg": (dpg, 4),
    "t2i-compbench": (t2i_compbench, 10),
}
"""By name the layout, and how many pictures of each prompt the benchmark asks for."""


def draw(name: str, pipeline: Any, config: Mapping[str, Any], out: epath.PathLike) -> dict[str, float]:
    """Draws a benchmark's prompts and writes ``result.json``, which tells what made the pictures, and no score.

    A killed run goes on with the files that it lacks; several processes take every n-th file each.

    Args:
        name: of `BENCHMARKS`.
        pipeline: an `inference.pipeline.Pipeline`.
        config: the run's; ``options`` holds `BenchmarkSettings`.
        out: a local or bucket folder.

    Returns:
        How many prompts and pictures there are.

    Raises:
        UserError: for prompts that are not there or not the benchmark's, or a folder that holds other pictures.
    """
    settings, out = from_config(BenchmarkSettings, config.get("options", {}), f"--suite {name}"), epath.Path(out)
    layout = _layout(name, settings)
    told = _made_by(pipeline, config, layout, settings)
    _claim(out, layout, told)
    mine = layout.wanted[jax.process_index() :: jax.process_count()]
    _draw(pipeline, out, [one for one in mine if not (out / one.file).exists()], settings.guidance)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"{name} is drawn")
    figures = {
        "prompts": len({one.prompt for one in layout.wanted}),
        "pictures": sum(len(one.seeds) for one in layout.wanted),
    }
    if jax.process_index() == 0:
        first = layout.wanted[0]
        size = np.array(files.read_picture(out / first.file).shape[:2]) // _side(len(first.seeds))
        measured.write_result(out, name, figures, {**told, "resolution": size.tolist()})
    return figures


def _layout(name: str, settings: BenchmarkSettings) -> Layout:
    layout_of, samples = BENCHMARKS[name]
    prompts = epath.Path(settings.prompts)
    if not settings.prompts or not prompts.exists():
        raise UserError(f"--prompts: {settings.prompts or 'missing'}; give the prompts that {name} comes with")
    samples = settings.samples or samples
    layout = layout_of(prompts, range(settings.seed, settings.seed + samples))
    if not layout.wanted:
        raise UserError(f"--prompts {prompts}: no prompts of {name} in it")
    return layout


def _made_by(pipeline: Any, config: Mapping[str, Any], layout: Layout, settings: BenchmarkSettings) -> dict[str, Any]:
    own: dict[str, Any] = {"samples": len({seed for one in layout.wanted for seed in one.seeds})}
    own |= {"prompts hash": measured.digest([dataclasses.asdict(one) for one in layout.wanted])[:12]}
    own |= {} if settings.guidance is None else {"guidance": settings.guidance}
    told = provenance(
        pipeline, config, split=epath.Path(settings.prompts).name, resolution=None, seed=settings.seed, **own
    )
    return json.loads(json.dumps(told))  # as it is read again


def _claim(out: epath.Path, layout: Layout, made_by: Mapping[str, Any]) -> None:
    """Writes what makes the pictures beside them, so that a run goes on with nothing else; and prompts with seeds."""
    path = out / SETTINGS
    found = files.read_json(path) if path.exists() else made_by
    for key in made_by:
        if found.get(key) != made_by[key]:
            raise UserError(f"{out}: holds pictures of {key} {found.get(key)}, not {made_by[key]}; take another --out")
    if path.exists():
        return
    files.write_rows(out / PROMPTS, map(dataclasses.asdict, layout.wanted))
    for place, text in layout.texts.items():
        files.write_text(out / place, text + "\n")
    files.write_json(path, made_by)


def _draw(pipeline: Any, out: epath.Path, wanted: Sequence[Wanted], guidance: float | None) -> None:
    if not wanted:
        return
    size = max(1, pipeline.settings.batch_size // len(wanted[0].seeds))
    for start in range(0, len(wanted), size):
        part = wanted[start : start + size]
        prompts = [one.prompt for one in part for _ in one.seeds]
        drawn = pipeline.generate(prompts, seeds=[seed for one in part for seed in one.seeds], guidance=guidance)
        for one, pictures in zip(part, np.split(drawn, len(part)), strict=True):
            files.write_picture(out / one.file, _together(pictures))
        _log.info("%d/%d files", start + len(part), len(wanted))


def _together(pictures: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "R C 3"]:
    return rearrange(pictures, "(r c) h w d -> (r h) (c w) d", r=_side(len(pictures)))


def _side(pictures: int) -> int:
    return {1: 1, 4: 2}[pictures]


SUITES = {name: functools.partial(draw, name) for name in BENCHMARKS}
