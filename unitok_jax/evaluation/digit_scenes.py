"""The digit scenes suite: drawing, reading and editing scenes, judged exactly. Ours; no published benchmark."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from unitok_jax.data import scenes
from unitok_jax.data.scene_draws import categories, draw, edit
from unitok_jax.data.scenes import Scene
from unitok_jax.evaluation import files
from unitok_jax.evaluation.provenance import provenance
from unitok_jax.evaluation.reading import share
from unitok_jax.evaluation.scene_judge import RIGHT, see, shows, verdict
from unitok_jax.settings import from_config

_log = logging.getLogger(__name__)

ABOUT = "made for unitok_jax: the categories are GenEval's, the pictures, prompts and judge are not"


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """`config.evaluation` of the digit scenes suite.

    Attributes:
        seed: of the scenes and of the drawings.
        prompts: of each category and split (``held_out``, ``unseen``) that are drawn.
        pictures: held-out scenes that are described and asked about.
        edits: held-out scenes to edit, for models that were trained on edits.
        size: side of the pictures in pixels.
    """

    seed: int = 0
    prompts: int = 16
    pictures: int = 96
    edits: int = 0
    size: int = scenes.SIZE


def evaluate(pipeline: Any, config: Mapping[str, Any], out: epath.PathLike) -> dict[str, float]:
    """Runs the suite and writes ``metrics.json`` and what it rests on into the folder `out`.

    Args:
        pipeline: an `inference.pipeline.Pipeline`, its images `SceneSettings.size` pixels a side.
        config: of the run, see `provenance`; its ``evaluation`` holds `SceneSettings`.
        out: a local or bucket folder.

    Returns:
        The figures by name, as in ``metrics.json``; ``generation_overall`` is the mean over the categories.

    Raises:
        UserError: for an unknown key of `config.evaluation`.
    """
    given = {**config.get("evaluation", {}), **config.get("options", {})}
    settings = from_config(SceneSettings, given, "config.evaluation")
    out = epath.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _log.info("digit_scenes: %s", ABOUT)
    parts = [lambda: _reading(pipeline, out, settings), lambda: _generation(pipeline, out, settings)]
    parts += [lambda: _edits(pipeline, out, settings)] if settings.edits else []
    figures: dict[str, float] = {}
    for part in parts:
        found = part()
        _log.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
        figures |= found
    own = {key: value for key, value in dataclasses.asdict(settings).items() if key not in ("seed", "size")}
    told = provenance(
        pipeline, config, split="held_out, unseen", resolution=settings.size, seed=settings.seed, suite=ABOUT, **own
    )
    files.write_json(out / "settings.json", told)
    files.write_json(out / "metrics.json", figures)
    return figures


def held_out(settings: SceneSettings) -> list[Scene]:
    """The scenes that are described."""
    return [draw("held_out", settings.seed, i)[0] for i in range(settings.pictures)]


def _reading(pipeline: Any, out: epath.Path, settings: SceneSettings) -> dict[str, float]:
    """Writes ``captions.jsonl`` and ``answers.jsonl``."""
    shown = held_out(settings)
    pictures = np.stack([scenes.render(scene, settings.size) for scene in shown])
    captions = pipeline.caption(pictures)
    asked = [(i, *pair) for i, scene in enumerate(shown) for pair in zip(*scenes.questions(scene), strict=True)]
    answers = pipeline.ask([pictures[i] for i, _, _ in asked], [question for _, question, _ in asked])
    rows = [
        {"scene": i, "question": question, "answer": answer, "said": said.strip().lower()}
        for (i, question, answer), said in zip(asked, answers, strict=True)
    ]
    told = [{"caption": scenes.caption(scene), "said": text} for scene, text in zip(shown, captions, strict=True)]
    files.write_rows(out / "captions.jsonl", told)
    files.write_rows(out / "answers.jsonl", rows)
    exact = [shows(scenes.parse_caption(text), scene) for scene, text in zip(shown, captions, strict=True)]
    return {
        "judge_accuracy": share([shows(seen, scene) for seen, scene in zip(see(pictures), shown, strict=True)]),
        "caption_exact": share(exact),
        "answer_exact": share([row["said"] == row["answer"] for row in rows]),
    }


def _generation(pipeline: Any, out: epath.Path, settings: SceneSettings) -> dict[str, float]:
    """Writes ``generated.jsonl`` and ``generated/*.png``."""
    asked = [
        (split, draw(split, settings.seed, i)[1])
        for split in ("held_out", "unseen")
        for i in range(settings.prompts * len(categories(split)))
    ]
    pictures = pipeline.generate([request.text for _, request in asked], seeds=settings.seed)
    rows: list[dict[str, Any]] = []
    for i, ((split, request), seen) in enumerate(zip(asked, see(pictures), strict=True)):
        name = f"generated/{i:04d}.png"
        files.write_picture(out / name, pictures[i])
        told = {"split": split, "category": request.category, "prompt": request.text, "file": name}
        rows.append({**told, "seen": {scenes.CELLS[c]: v for c, v in seen.items()}, "verdict": verdict(seen, request)})
    files.write_rows(out / "generated.jsonl", rows)
    files.keep_only(out / "generated", {row["file"] for row in rows})
    return _by_category(rows, "held_out", "generation") | _by_category(rows, "unseen", "generation_unseen")


def _by_category(rows: list[dict[str, Any]], split: str, name: str) -> dict[str, float]:
    found = {
        category: share([r["verdict"] == RIGHT for r in rows if (r["split"], r["category"]) == (split, category)])
        for category in categories(split)
    }
    figures = {f"{name}_{category}": value for category, value in found.items()}
    return {**figures, f"{name}_overall": float(np.mean(list(found.values())))}


def _edits(pipeline: Any, out: epath.Path, settings: SceneSettings) -> dict[str, float]:
    """Writes ``edits.jsonl`` and ``edited/*.png``."""
    drawn = [draw("held_out", settings.seed, i) for i in range(settings.edits)]
    before = np.stack([scenes.render(scene, settings.size) for scene, _, _ in drawn])
    wanted = [edit(scene, "held_out", rng) for scene, _, rng in drawn]
    pictures = pipeline.edit(before, [instruction for instruction, _ in wanted], seeds=settings.seed)
    rows: list[dict[str, Any]] = []
    for i, ((instruction, target), seen) in enumerate(zip(wanted, see(pictures), strict=True)):
        name = f"edited/{i:04d}.png"
        files.write_picture(out / name, pictures[i])
        rows.append({"scene": i, "instruction": instruction, "file": name, "right": shows(seen, target)})
    files.write_rows(out / "edits.jsonl", rows)
    files.keep_only(out / "edited", {row["file"] for row in rows})
    return {"edit_correct": share([row["right"] for row in rows])}
