"""The report's pictures, each exhibit made from the files that the digits suite wrote."""

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from unitok_jax.data import digits
from unitok_jax.evaluation import files, page, plots
from unitok_jax.evaluation.drawing import reconstructed
from unitok_jax.evaluation.reading import compare

_SHOWN = 36  # tiles in an exhibit
Row = Mapping[str, Any]


def hero(out: epath.Path) -> str:
    """The first drawing of each digit, in changing colours."""
    rows = files.read_rows(out / "generated.jsonl")
    drawn = []
    for digit, colour in zip(range(10), itertools.cycle(digits.COLOUR_NAMES)):
        row = next(r for r in rows if r["digit"] == digit and r["colour"] == colour)
        drawn.append(_drawing(out, row))
    return f'<div class="hero">{"".join(drawn)}</div>'


def captions(out: epath.Path) -> str:
    """Held-out pictures with the model's captions: the first ones, then the ones it gets wrong."""
    rows = files.read_rows(out / "captions.jsonl")
    exact = [r.exact for r in compare([row["caption"] for row in rows], [_scan(row) for row in rows])]
    wrong = [row for row, right in zip(rows, exact, strict=True) if not right]
    first = [_captioned(row, right) for row, right in zip(rows[:_SHOWN], exact[:_SHOWN], strict=True)]
    shown = min(len(wrong), _SHOWN)
    return (
        page.text(
            f"The first {len(first)} of {len(rows)} pictures that training never saw, and what the model says of them."
        )
        + page.tiles(first)
        + f"<h3>{'Where it is wrong' if wrong else 'It is never wrong'}</h3>"
        + (page.text(f"{shown} of {len(wrong)} wrong captions.") if shown < len(wrong) else "")
        + page.tiles([_captioned(row, False) for row in wrong[:_SHOWN]])
    )


def _captioned(row: Row, right: bool) -> tuple[str, str, bool]:
    return _real(row), page.mark(right, row["caption"] or "(nothing)"), right


def answers(out: epath.Path) -> str:
    """Questions and answers about held-out pictures, both questions under each."""
    rows = files.read_rows(out / "answers.jsonl")
    right = [
        r.colour if row["question"] == digits.COLOUR_QUESTION else r.digit
        for r, row in zip(compare([r["answer"] for r in rows], [_scan(r) for r in rows]), rows, strict=True)
    ]
    asked: dict[int, list[tuple[Row, bool]]] = {}
    for row, good in zip(rows, right, strict=True):
        asked.setdefault(row["index"], []).append((row, good))
    # Taken from the end, so that the pictures are others than those captioned above.
    shown = list(asked.values())[-_SHOWN // 2 :]
    return page.text("Two questions about each picture, answered by the same model in words.") + page.tiles(
        [(_real(pairs[0][0]), _dialogue(pairs), all(good for _, good in pairs)) for pairs in shown]
    )


def _dialogue(pairs: Sequence[tuple[Row, bool]]) -> str:
    lines = (
        f"<dt>{escape(r['question'])}</dt><dd>{page.mark(good, r['answer'] or '(nothing)')}</dd>" for r, good in pairs
    )
    return f"<dl>{''.join(lines)}</dl>"


def generations(out: epath.Path) -> str:
    """One drawing of every digit in every colour."""
    first: dict[tuple[int, str], Row] = {}
    for row in files.read_rows(out / "generated.jsonl"):
        first.setdefault((row["digit"], row["colour"]), row)
    heads = "".join(f'<th scope="col">{d}</th>' for d in range(10))
    body = "".join(
        f'<tr><th scope="row">{colour}</th>' + "".join(_cell(out, first.get((d, colour))) for d in range(10)) + "</tr>"
        for colour in digits.COLOUR_NAMES
    )
    return (
        page.text(
            "Drawn from words alone, such as “a handwritten red seven”: the first drawing of each pair, not picked.",
            "Framed: pairs that no training picture, caption or question ever had. Crossed: the judge disagrees.",
        )
        + f'<table class="draws"><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>'
    )


def _cell(out: epath.Path, row: Row | None) -> str:
    if row is None:
        return "<td></td>"
    kinds = (["unseen"] if not row["seen"] else []) + ([] if _agreed(row) else ["wrong"])
    badge = "" if _agreed(row) else '<span class="badge" aria-hidden="true">✗</span>'
    return f'<td class="{" ".join(kinds)}">{_drawing(out, row)}{badge}</td>'


def _agreed(row: Row) -> bool:
    return (row["judged_digit"], row["judged_colour"]) == (row["digit"], row["colour"])


def _drawing(out: epath.Path, row: Row) -> str:
    seen = "" if row["seen"] else ", a pair never trained on"
    judged = "" if _agreed(row) else ", though the judge disagrees"
    return page.picture(files.read_picture(out / row["file"]), f"drawn for “{row['prompt']}”{seen}{judged}")


def reconstructions(out: epath.Path) -> str:
    """Held-out pictures above what their codes give back."""
    items = []
    for index, colour in digits.split("held_out")[: _SHOWN // 2]:
        name = f"{colour} {digits.NUMBERS[digits.digit(index)]}"
        real = page.picture(digits.render(index, colour), f"a real {name}")
        back = page.picture(files.read_picture(reconstructed(out, index)), f"the {name} reconstructed")
        items.append((real + back, name, True))
    return page.text("Above the real held-out picture, below what the decoder makes of its codes.") + page.tiles(items)


def edits(out: epath.Path) -> str:
    """Held-out pictures above what the model makes of them when told to change one thing."""
    rows = files.read_rows(out / "edits.jsonl")[:_SHOWN]
    items = []
    for row in rows:
        real = page.picture(files.read_picture(out / row["source"]), "a real held-out picture")
        drawn = page.picture(files.read_picture(out / row["file"]), f"edited: {row['instruction']}")
        items.append((real + drawn, page.mark(_agreed(row), row["instruction"]), _agreed(row)))
    return page.text("Above the real held-out picture, below the model's after the words, not picked.") + page.tiles(
        items
    )


def codebook(out: epath.Path, figures: Mapping[str, float]) -> str:
    """How often each code of each codebook is used, the commonest first."""
    books = files.read_json(out / "codes.json")
    several = len(books) > 1
    lines, charts = [], []
    for name, book in books.items():
        counts, label = sorted(book, reverse=True), f"{name}: " if several else ""
        perplexity = figures[f"codebook_perplexity_{name}" if several else "codebook_perplexity"]
        told = (
            f"{sum(c > 0 for c in counts)} of {len(counts)} entries used; the commonest {counts[0]} times,"
            f" the median one {counts[len(counts) // 2]} times"
        )
        lines.append(f"{label}{told}. Perplexity {perplexity:.0f}: as varied as that many equal entries.")
        charts.append(plots.bar_chart(counts, f"{label}Uses of each entry, commonest first", told, "entry"))
    return page.text(*lines) + f'<div class="charts">{"".join(charts)}</div>'


def _scan(row: Row) -> tuple[int, str]:
    return row["index"], row["colour"]


def _real(row: Row) -> str:
    name = f"a real handwritten {row['colour']} {digits.NUMBERS[row['digit']]}"
    return page.picture(digits.render(row["index"], row["colour"]), name)
