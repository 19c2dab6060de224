"""Draws the pictures of these pages from the code itself: python docs/pictures.py (from the repository's root)."""

from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from unitok_jax.config import load_config
from unitok_jax.data import scenes
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.data.scene_draws import draw
from unitok_jax.data.sources import open_source
from unitok_jax.data.tasks import to_example
from unitok_jax.systems import base
from unitok_jax.training.config import read_config

OUT = Path(__file__).parent / "images"
COLOURS = {Modality.TEXT: "#dfe7f5", Modality.CODE: "#f6d9b8", Modality.FEATURE: "#cdebd9"}
NAMES = {Modality.TEXT: "text and marks", Modality.CODE: "visual codes", Modality.FEATURE: "visual features"}
SIDE, GAP, COLUMNS = 15, 3, 44


def rows() -> str:
    """The rows of one digit as two tasks of the demo's last stage, a square a position; learnt ones have a bar."""
    config, _ = read_config(load_config("configs/demo/stage2.py"))
    system = base.build(config.system, config.model)
    stage = base.build_stage(system, config.stage, {**config.stage_options, "condition_dropout": 0.0})
    record = open_source("digits", {"split": "held_out"}, "docs")[1]
    parts, top = [], 0
    for task, title in (
        ("caption", "understanding: picture, request, caption"),
        ("generate", "generation: prompt, picture"),
    ):
        row = stage.layout(to_example(task, record, (), np.random.default_rng(1)), np.random.default_rng(1))
        body, height = _row(row, top + 22)
        parts += [f'<text x="0" y="{top + 14}">{escape(title)}: {len(row.tokens)} positions</text>', body]
        top += height + 34
    legend = "".join(
        f'<rect x="{190 * i}" y="{top}" width="{SIDE}" height="{SIDE}" fill="{COLOURS[m]}" stroke="#999"/>'
        f'<text x="{190 * i + SIDE + 6}" y="{top + 12}">{NAMES[m]}</text>'
        for i, m in enumerate(COLOURS)
    )
    legend += f'<rect x="570" y="{top + 11}" width="{SIDE}" height="4" fill="#b3261e"/>'
    legend += f'<text x="591" y="{top + 12}">learnt: the next id must be predicted</text>'
    width = COLUMNS * (SIDE + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 0 {width + 60} {top + 26}" font-family="sans-serif" '
        f'font-size="13"><rect x="-8" width="100%" height="100%" fill="#fff"/>{"".join(parts)}{legend}</svg>\n'
    )


def _row(row: ExampleRow, top: int) -> tuple[str, int]:
    cells = []
    for i, (modality, weight) in enumerate(zip(row.modality, row.loss_weights, strict=True)):
        x, y = (i % COLUMNS) * (SIDE + GAP), top + (i // COLUMNS) * (SIDE + GAP + 4)
        cells.append(f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="{COLOURS[modality]}" stroke="#999"/>')
        if weight > 0:
            cells.append(f'<rect x="{x}" y="{y + SIDE - 4}" width="{SIDE}" height="4" fill="#b3261e"/>')
    return "".join(cells), (len(row.tokens) - 1) // COLUMNS * (SIDE + GAP + 4) + SIDE + 4


def scene_sheet() -> Image.Image:
    """Held-out scenes, one of each category."""
    pictures = [
        np.pad(scenes.render(draw("held_out", 0, i)[0]), ((0, 0), (0, 4), (0, 0)), constant_values=255)
        for i in range(6)
    ]
    sheet = Image.fromarray(np.concatenate(pictures, axis=1))
    return sheet.resize((4 * sheet.width, 4 * sheet.height), Image.Resampling.NEAREST)


if __name__ == "__main__":
    (OUT / "rows.svg").write_text(rows())
    scene_sheet().save(OUT / "digit_scenes.png", optimize=True)
