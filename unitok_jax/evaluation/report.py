"""The digits report: one HTML file that tells the whole result and needs nothing else to be read."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from unitok_jax.evaluation import classes, exhibits, files, page, plots
from unitok_jax.evaluation.targets import Target, chosen

Rows = Sequence[Mapping[str, Any]]
Lines = dict[str, tuple[list[float], list[float]]]


def write_report(out: epath.PathLike, curves: Mapping[str, Rows], commands: Iterable[str] = ()) -> epath.Path:
    """Writes ``report.html`` from the files that the digits suite left in the folder `out`.

    Args:
        out: the suite's output folder; its ``metrics.json`` may have got more figures since, such as ``seconds``.
        curves: training stage -> the rows of its metrics, in the order in which the stages ran.
        commands: what a reader types to get the same, one a line.

    Returns:
        The path of the report.
    """
    out = epath.Path(out)
    figures, settings = files.read_json(out / "metrics.json"), files.read_json(out / "settings.json")
    targets = chosen(settings.pop("targets", {}))
    sections = [
        ("figures", "Figures", _figures(figures, targets)),
        ("training", "Training", training(curves)),
        ("captions", "Captions", exhibits.captions(out)),
        ("answers", "Questions and answers", exhibits.answers(out)),
        ("drawings", "Drawings", exhibits.generations(out)),
        *([("edits", "Edits", exhibits.edits(out))] if "edit_correct" in figures else []),
        *([("classes", "Digits by class", classes.exhibit(out))] if "class_correct" in figures else []),
        ("reconstructions", "Reconstructions", exhibits.reconstructions(out)),
        ("codebook", "Codebook", exhibits.codebook(out, figures)),
        *(
            [("streams", "Which visual stream it leans on", _streams(figures))]
            if "caption_exact_codes_blanked" in figures
            else []
        ),
        ("settings", "Settings and commands", settings_section(settings, curves, commands)),
    ]
    title = "One small model that reads and draws handwritten digits"
    files.write_text(out / "report.html", page.page(title, _header(out, figures, settings, targets), sections))
    return out / "report.html"


def _header(
    out: epath.Path, figures: Mapping[str, float], settings: Mapping[str, Any], targets: Sequence[Target]
) -> str:
    met = sum(target.met(figures) for target in targets)
    took = f" The whole run took {figures['seconds'] / 60:.1f} minutes." if "seconds" in figures else ""
    lead = (
        f"A small {escape(settings['system'])} model, trained from random weights on 1,497 real scans, captions"
        " pictures that it has never seen, answers questions about them and draws new ones from words."
        f" {met} of {len(targets)} targets are met.{took}"
    )
    return f'<p class="lead">{lead}</p>{exhibits.hero(out)}<p>Drawn by the model, one for each digit.</p>'


def _figures(figures: Mapping[str, float], targets: Sequence[Target]) -> str:
    cards = "".join(_card(target, figures) for target in targets if target.key in figures)
    return (
        page.text(
            "Measured on the 300 held-out scans and on drawings from words.",
            "A separate classifier, trained on the real training scans only, judges drawings and reconstructions.",
        )
        + f'<ul class="cards">{cards}</ul>'
    )


def _card(target: Target, figures: Mapping[str, float]) -> str:
    met = target.met(figures)
    kind, told = ("good", "✓ meets") if met else ("bad", "✗ misses")
    return (
        f'<li><div class="name">{escape(target.label)}</div>'
        f'<div class="value">{escape(target.show(figures[target.key]))}</div>'
        f'<div class="verdict {kind}">{told} {escape(target.wanted)}</div></li>'
    )


def training(curves: Mapping[str, Rows]) -> str:
    """The section on training: curves by stage."""
    charts = [
        plots.line_chart(lines, f"{stage}: {what}")
        for stage, rows in curves.items()
        for what, lines in _charts(rows).items()
        if lines
    ]
    return (
        page.text("Losses and accuracies by stage, each with its last value.")
        + f'<div class="charts">{"".join(charts)}</div>'
    )


def _charts(rows: Rows) -> dict[str, Lines]:
    """The losses and accuracies of training, and apart from them those of validation."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, int | float))
    chosen = {
        "loss": [n for n in names if n.startswith("loss/")],
        "accuracy": [n for n in names if n.startswith("accuracy/")],
        "held-out loss": [n for n in names if n.startswith("validation/") and "/loss/" in n],
        "held-out accuracy": [n for n in names if n.startswith("validation/") and "/accuracy/" in n],
    }
    return {what: _lines(rows, group) for what, group in chosen.items()}


def _lines(rows: Rows, names: Sequence[str]) -> Lines:
    """The curves by the last part of their names, without those that repeat another one."""
    curves: Lines = {}
    for name in names:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        curve = ([x for x, _ in points], [y for _, y in points])
        if curve not in curves.values():
            curves[name.removeprefix("validation/").replace("loss/", "").replace("accuracy/", "")] = curve
    return curves


def _streams(figures: Mapping[str, float]) -> str:
    def percent(key: str) -> str:
        return f"{100 * figures[key]:.1f} %"

    blanked = page.table(
        ["The model sees", "Captions exactly right"],
        [
            ["codes and features", percent("caption_exact")],
            ["features only, the codes of a black picture", percent("caption_exact_codes_blanked")],
            ["codes only, the features of a black picture", percent("caption_exact_features_blanked")],
        ],
    )
    clash = page.table(
        ["When they disagree, captions name", "of the codes", "of the features", "of neither"],
        [
            [label, *(percent(f"disagree_{part}{side}") for side in ("codes", "features", "neither"))]
            for label, part in (("the digit", "digit_"), ("the colour", "colour_"), ("both", ""))
        ],
    )
    return (
        page.text(
            "The model reads a picture twice: as discrete codes and as continuous features.",
            "Blanking one, and giving it the codes of one picture with the features of another, tells which it trusts.",
        )
        + blanked
        + "<br>"
        + clash
    )


def settings_section(settings: Mapping[str, Any], curves: Mapping[str, Rows], commands: Iterable[str]) -> str:
    """The section on settings, and on how to get the same again."""
    steps = {f"steps, {stage}": rows[-1]["step"] for stage, rows in curves.items() if rows}
    lines = "\n".join(commands)
    return page.table(["Setting", "Value"], [[k, str(v)] for k, v in {**settings, **steps}.items()]) + (
        f'<h3>The same again</h3><pre tabindex="0">{escape(lines)}</pre>' if lines else ""
    )
