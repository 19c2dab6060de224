"""The digits suite: every figure of the demo, measured on held-out pictures and judged independently."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from unitok_jax.data import digits
from unitok_jax.evaluation import classes, drawing, editing, files, reading, targets
from unitok_jax.evaluation.provenance import provenance
from unitok_jax.settings import from_config

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DigitsSettings:
    """`config.evaluation` of the digits suite. How to decode is the pipeline's own, from `config.inference`.

    Attributes:
        seed: of the generated pictures and of the pairing of disagreeing ones.
        prompts_per_pair: pictures of each (digit, colour) trained on; 74 such pairs.
        prompts_per_unseen_pair: pictures of each of the six pairs never trained on.
        edits: held-out pictures to edit, for models that were trained on edits.
        targets: what the recipe is to reach: figure -> bound, in the place of UniToken's; empty takes those.
        classes: folder, below that of the results, of digits drawn by class; "" where there are none.
    """

    seed: int = 0
    prompts_per_pair: int = 3
    prompts_per_unseen_pair: int = 30
    edits: int = 0
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    classes: str = ""


def evaluate(pipeline: Any, config: Mapping[str, Any], out: epath.PathLike) -> dict[str, float]:
    """Runs the suite and writes ``metrics.json`` and what it rests on into the folder `out`.

    Args:
        pipeline: an `inference.pipeline.Pipeline`, its images `data.digits.SIZE` pixels a side.
        config: of the run, see `provenance`; its ``evaluation`` holds `DigitsSettings`.
        out: a local or bucket folder.

    Returns:
        The figures by name, as in ``metrics.json``.

    Raises:
        UserError: for an unknown key of `config.evaluation`.
    """
    given = {**config.get("evaluation", {}), **config.get("options", {})}
    settings = from_config(DigitsSettings, given, "config.evaluation")
    targets.chosen(settings.targets)  # a wrong name is told before the work
    out = epath.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    held_out = digits.split("held_out")
    figures = {"judge_accuracy": drawing.judged(reading.pictures_of(held_out), held_out)}
    parts = {
        "captions": lambda: reading.captions(pipeline, out),
        "answers": lambda: reading.answers(pipeline, out),
        "generation": lambda: drawing.generations(
            pipeline,
            out,
            settings.seed,
            settings.prompts_per_pair,
            settings.prompts_per_unseen_pair,
        ),
        "reconstruction": lambda: drawing.reconstructions(pipeline, out),
        "codebook": lambda: drawing.codebook(pipeline, out),
    }
    if pipeline.gives_features(digits.render(*held_out[0])):
        parts["streams"] = lambda: reading.leaning(pipeline, settings.seed)
    if settings.edits:
        parts["edits"] = lambda: editing.edits(pipeline, out, settings.edits, settings.seed)
    if settings.classes:  # first: they must be there already
        parts = {"classes": lambda: classes.classes(out, settings.classes), **parts}
    for name, part in parts.items():
        found = part()
        _log.info("%s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
        figures |= found
    told = provenance(pipeline, config, split="held_out", resolution=digits.SIZE, **dataclasses.asdict(settings))
    files.write_json(out / "settings.json", told)
    files.write_json(out / "metrics.json", figures)
    return figures
