"""Edits of held-out digits, judged like drawings: the digit and the colour that the instruction asks for."""

from typing import Any

import numpy as np
from etils import epath

from unitok_jax.data.sources.digit_edits import Source
from unitok_jax.evaluation import files
from unitok_jax.evaluation.judge import judge
from unitok_jax.evaluation.reading import share


def edits(pipeline: Any, out: epath.Path, count: int, seed: int) -> dict[str, float]:
    """Edits `count` held-out pictures, half of them in colour and half in digit; writes ``edits.jsonl``.

    Args:
        pipeline: an `inference.pipeline.Pipeline` of a model that was trained on edits.
        out: folder of the results.
        count: pictures; the records are spread evenly over the split.
        seed: of the first edit.
    """
    held_out = Source("held_out")
    places = np.linspace(0, len(held_out) // 2 - 1, (count + 1) // 2).astype(int)
    records = [held_out[int(2 * place + kind)] for place in places for kind in (0, 1)][:count]
    drawn = pipeline.edit(
        [record["image"] for record in records], [record["instruction"] for record in records], seeds=seed
    )
    rows = []
    for record, picture, verdict in zip(records, drawn, judge()(drawn), strict=True):
        name, source = (f"edited/{len(rows):04d}{side}.png" for side in ("", "-source"))
        files.write_picture(out / name, picture)
        files.write_picture(out / source, record["image"])
        told = {key: record[key] for key in ("id", "instruction", "digit", "colour")}
        rows.append(
            {**told, "file": name, "source": source, "judged_digit": verdict.digit, "judged_colour": verdict.colour}
        )
    files.write_rows(out / "edits.jsonl", rows)
    right = [(r["judged_digit"], r["judged_colour"]) == (r["digit"], r["colour"]) for r in rows]
    return {
        "edit_correct": share(right),
        "edit_correct_colour": share(right[::2]),
        "edit_correct_digit": share(right[1::2]),
    }
