"""DualToken's views of a picture: the evaluation's, and the training's for given crops."""

import numpy as np
from harness import nhwc

from unitok_jax.systems.dualtoken.images import crop_view, whole_view

DIFFERENT = 1e-3  # share of the values that may be one grey level off (the README's)


def check(case):
    side = case.config["size"]
    assert case.config["mean"] == case.config["std"] == [0.5, 0.5, 0.5]
    for name in case.matching(r"in\.\d+"):
        number, image = name.removeprefix("in."), case.input(name)
        compare(case, f"val.{number}", whole_view(image, side))
        box = tuple(int(x) for x in case.input(f"crop.{number}"))
        compare(case, f"train.{number}", crop_view(image, box, side))


def compare(case, name, ours):
    """Exact but for a few values one grey level off."""
    levels = np.round((nhwc(case.expected(name)[None])[0].astype(np.float64) * 0.5 + 0.5) * 255)
    off = np.abs(levels - ours)
    few = off.max(initial=0) <= 1 and (off > 0).mean() <= DIFFERENT
    where = np.moveaxis(off == 0, -1, 0) if few else None
    case.compare(name, np.moveaxis(ours.astype(np.float32) / 127.5 - 1, -1, 0), where=where)
