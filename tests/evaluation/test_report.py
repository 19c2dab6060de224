import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from unitok_jax.evaluation import files, plots, sheets
from unitok_jax.evaluation.report import write_report
from unitok_jax.evaluation.targets import TARGETS

VOID = {"meta", "img", "br", "path", "polyline"}
CURVES = {
    "tokenizer": [{"step": s, "loss/generator": 1 / s, "time/step": 0.1} for s in range(10, 210, 10)],
    "stage II": [
        {"step": 1, "loss/understanding": 2.0, "loss/generation": None},
        {
            "step": 2,
            "loss/understanding": 1.5,
            "loss/generation": 3.25,
            "validation/held_out/loss/understanding": 0.875,
        },
    ],
}


class Reader(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def report(wrong):
    figures, out = wrong
    files.write_json(out / "metrics.json", figures | {"seconds": 90.0})
    html = write_report(out, CURVES, ["make demo <&>"]).read_text()
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return html, reader


def test_it_has_every_section_once_and_links_to_it(report):
    _, reader = report
    sections = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    expected = "figures training captions answers drawings reconstructions codebook streams settings"
    assert " ".join(sections) == expected
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert [attrs["href"] for tag, attrs in reader.tags if tag == "a"] == [f"#{name}" for name in sections]


def test_it_needs_nothing_from_elsewhere(report):
    html, reader = report
    sources = [attrs.get("src") or attrs.get("href") for _, attrs in reader.tags if {"src", "href"} & set(attrs)]
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", html)


def test_pictures_and_charts_say_what_they_are(report):
    _, reader = report
    pictures = [attrs for tag, attrs in reader.tags if tag == "img"]
    assert len(pictures) > 150 and all(attrs["alt"] for attrs in pictures)
    charts = [attrs for tag, attrs in reader.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(charts) == 4 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    labels = " ".join(attrs["aria-label"] for attrs in charts)
    assert "tokenizer: loss: generator from 0.1 to 0.005" in labels
    assert "understanding from 0.875 to 0.875" in labels and "nan" not in labels


def test_figures_stand_beside_their_targets(report):
    _, reader = report
    words = " ".join(reader.words)
    assert all(target.label in words for target in TARGETS)
    assert "✗ misses at least 88\u00a0%" in words and "✓ meets at least 95\u00a0%" in words
    assert "The whole run took 1.5 minutes." in words
    assert "make demo <&>" in words
    assert "steps, stage II" in words


def test_ticks_are_round_and_cover_the_range():
    assert plots.ticks(0, 1) == [0, 0.5, 1]
    assert plots.ticks(0, 830) == [0, 500, 1000]
    assert plots.ticks(-0.3, 0.3) == [-0.4, -0.2, 0, 0.2, 0.4]
    assert plots.ticks(0, 0) == [0, 0.5, 1]  # a curve that is zero throughout is drawn too
    for low, high in ((0, 1e-5), (3, 3), (-7, 1234)):
        marks = plots.ticks(low, high)
        assert marks[0] <= low and marks[-1] >= high and len(marks) <= 8


def test_curves_are_thinned_by_means_and_without_what_is_not_finite():
    steps, values = plots.thin(range(1000), [math.nan, *range(1, 1000)], points=10)
    assert len(steps) == 10 and values.mean() == pytest.approx(500, abs=1) and np.isfinite(values).all()
    assert "no values yet" in plots.line_chart({"loss": ([1], [math.inf])}, "empty")
    assert "polyline" in plots.line_chart({"bad steps": ([1, 2], [0, 0])}, "zero throughout")


def test_a_sheet_lays_pictures_out_and_is_saved(tmp_path):
    red, wide = np.full((2, 2, 3), (255, 0, 0), np.uint8), np.zeros((2, 3, 3), np.uint8)
    paper = sheets.sheet([[red, wide], [wide]], scale=2, gap=1)
    assert paper.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert (paper[1:5, 1:5] == (255, 0, 0)).all() and (paper[1:5, 8:14] == 0).all() and (paper[6:, 8:] == 255).all()
    sheets.save_picture([[red, wide], [wide]], tmp_path / "new" / "sheet.png", scale=2)
    np.testing.assert_array_equal(
        files.read_picture(tmp_path / "new" / "sheet.png"), sheets.sheet([[red, wide], [wide]], 2)
    )
    sheets.save_picture(red, tmp_path / "red.png", scale=3)
    assert files.read_picture(tmp_path / "red.png").shape == (6, 6, 3)
