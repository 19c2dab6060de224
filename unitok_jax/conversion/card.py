"""The README that goes with exported weights."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax import __version__
from unitok_jax.training.metrics import read_metrics

MEASURED = re.compile(r"(^|/)(loss|accuracy)/")


def model_card(
    system: str,
    stage: str,
    form: str,
    step: int | None,
    artefacts: Sequence[Mapping[str, Any]],
    left: Sequence[str],
    origins: Mapping[str, str],
    *,
    config_hash: str,
    data: Sequence[str],
    metrics: Mapping[str, float],
) -> str:
    """A model card in Hugging Face's form.

    Args:
        system, stage: what was trained.
        form: the export's format.
        step: of the run; None for weights that were imported and not trained.
        artefacts: ``folder``, ``artefact``, ``parts``, ``tensors``, ``parameters``, ``loads`` of each.
        left: what of the run is not in the files.
        origins: part -> the published checkpoint that it began from.
        config_hash: of the run's config, as `unitok inspect` tells it.
        data: what it was trained on, a line a source.
        metrics: the run's last losses and accuracies by name.
    """
    came = "from imported weights, which were not trained further" if step is None else f"step {step} of a training run"
    library = "transformers" if form == "transformers" else "pytorch"
    lines = [
        "---",
        f"library_name: {library}",
        f"tags: [{system}, unified-visual-tokenizer, multimodal]",
        "---",
        f"# {system}, stage {stage}",
        "",
        f"Exported by unitok_jax {__version__} in format `{form}`, {came}. Config `{config_hash}`.",
        "",
        "| folder | artefact | parts | tensors | parameters | read by |",
        "|---|---|---|---|---|---|",
    ]
    for row in artefacts:
        lines.append(
            f"| `{row['folder']}` | {row['artefact']} | {row['parts']} | {row['tensors']} | {row['parameters']:,} "
            f"| {row['loads']} |"
        )
    if left:
        lines += ["", f"Not in these files, for the format has no place for it: {', '.join(left)}."]
    if origins:
        lines += ["", "Began from:", "", *(f"- `{part}`: {origin}" for part, origin in origins.items())]
    if data:
        lines += ["", "Trained on:", "", *(f"- {line}" for line in data)]
    if metrics:
        lines += ["", "The run's last losses and accuracies:", "", "| name | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items())]
    lines += [
        "",
        "The licences of the weights that these began from apply to them too.",
        "Evaluation and limits are for whoever publishes them to tell here.",
    ]
    return "\n".join(lines) + "\n"


def source_line(entry: Mapping[str, Any]) -> str:
    """Such as ``digits, task caption (split=train, weight=0.25)``; no paths, which say nothing to others."""
    shown = {key: value for key, value in entry.items() if isinstance(value, int | float | str)}
    rest = [f"{k}={v}" for k, v in sorted(shown.items()) if k not in ("kind", "task") and "/" not in str(v)]
    return f"{entry['kind']}, task {entry['task']}" + (f" ({', '.join(rest)})" if rest else "")


def last_metrics(workdir: Path, step: int | None) -> dict[str, float]:
    """The last metrics of each name up to the step; losses and accuracies alone."""
    told: dict[str, float] = {}
    for row in read_metrics(workdir) if step is not None else ():
        if row["step"] <= step:
            told |= {name: value for name, value in row.items() if MEASURED.search(name) and value is not None}
    return told
