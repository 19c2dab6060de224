"""Digits drawn by class: what `cli.sample_classes` left beside the suite's results, judged and shown."""

import numpy as np
from etils import epath

from unitok_jax.data import digits
from unitok_jax.errors import UserError
from unitok_jax.evaluation import files, page
from unitok_jax.evaluation.judge import judge
from unitok_jax.evaluation.reading import share

SHOWN = 8  # of each class


def classes(out: epath.Path, folder: str) -> dict[str, float]:
    """The share of the pictures that show their class; writes ``classes.jsonl``.

    Args:
        out: folder of the results.
        folder: below it, that of the pictures: ``<class>/<number>.png``.

    Raises:
        UserError: if there are none.
    """
    paths = sorted((out / folder).glob("[0-9]*/*.png")) if (out / folder).exists() else []
    if not paths:
        command = f"python -m unitok_jax.cli.sample_classes --workdir RUN --out {out / folder}"
        raise UserError(f"{out / folder}: no pictures; draw them first: {command}")
    pictures = np.stack([files.read_picture(path) for path in paths])
    rows = [
        {"file": f"{folder}/{path.parent.name}/{path.name}", "digit": int(path.parent.name), "judged": verdict.digit}
        for path, verdict in zip(paths, judge()(pictures), strict=True)
    ]
    files.write_rows(out / "classes.jsonl", rows)
    return {"class_correct": share([row["judged"] == row["digit"] for row in rows])}


def exhibit(out: epath.Path) -> str:
    """The first pictures of each class, not picked."""
    rows = files.read_rows(out / "classes.jsonl")
    firsts = [row for digit in range(10) for row in [r for r in rows if r["digit"] == digit][:SHOWN]]
    tiles = []
    for row in firsts:
        name, right = digits.NUMBERS[row["digit"]], row["judged"] == row["digit"]
        shown = page.picture(files.read_picture(out / row["file"]), f"drawn for the class {name}")
        tiles.append((shown, page.mark(right, name), right))
    text = f"Drawn by a model of classes on the same tokens, {SHOWN} of each digit, not picked; the judge says which."
    return page.text(text) + page.tiles(tiles)
