"""The digit scenes report: figures by category, what was drawn, what was read, in one HTML file."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from etils import epath

from unitok_jax.data.scenes import CATEGORIES
from unitok_jax.evaluation import files, page, report
from unitok_jax.evaluation.scene_judge import RIGHT

SHOWN = 12  # drawings of each category, and captions


def write_report(out: epath.PathLike, curves: Mapping[str, report.Rows], commands: Iterable[str] = ()) -> epath.Path:
    """Writes ``report.html`` from the files that the suite left in the folder `out`; see `report.write_report`."""
    out = epath.Path(out)
    figures, settings = files.read_json(out / "metrics.json"), files.read_json(out / "settings.json")
    sections = [
        ("figures", "Figures", _figures(figures)),
        ("training", "Training", report.training(curves)),
        ("drawings", "Drawings", _drawings(out)),
        ("captions", "Captions", _captions(out)),
        ("settings", "Settings and commands", report.settings_section(settings, curves, commands)),
    ]
    lead = f'<p class="lead">Scenes of one to four handwritten digits, {escape(settings["suite"])}.</p>'
    title = "A small model that reads and draws scenes of digits"
    files.write_text(out / "report.html", page.page(title, lead, sections))
    return out / "report.html"


def _figures(figures: Mapping[str, float]) -> str:
    def percent(key: str) -> str:
        return f"{100 * figures[key]:.1f} %" if key in figures else "-"

    def line(name: str, *keys: str) -> list[str]:
        return [name.replace("_", " "), *map(percent, keys)]

    drawn = [line(name, f"generation_{name}", f"generation_unseen_{name}") for name in (*CATEGORIES, "overall")]
    read = [line(name, name) for name in ("judge_accuracy", "caption_exact", "answer_exact", "edit_correct")]
    kinds = page.table(["Drawn right", "seen kinds", "kinds never seen"], drawn)
    return kinds + "<br>" + page.table(["Read", "right"], read)


def _drawings(out: epath.Path) -> str:
    rows = files.read_rows(out / "generated.jsonl")
    shown = [row for name in CATEGORIES for row in [r for r in rows if r["category"] == name][:SHOWN]]
    return page.tiles(_tile(out, row) for row in shown)


def _tile(out: epath.Path, row: Mapping[str, Any]) -> tuple[str, str, bool]:
    right = row["verdict"] == RIGHT
    note = escape(row["prompt"]) + "<br>" + page.mark(right, RIGHT if right else f"wrong {row['verdict']}")
    return page.picture(files.read_picture(out / row["file"]), row["prompt"]), note, right


def _captions(out: epath.Path) -> str:
    rows = files.read_rows(out / "captions.jsonl")[:SHOWN]
    return page.table(["What is there", "What the model says"], [[row["caption"], row["said"]] for row in rows])
