"""What SigLIP sees of a picture, in the base and the AnyRes variant, and the order in which its features are read."""

import numpy as np
from harness import Mutation

from unitok_jax.systems.pixels import to_float
from unitok_jax.systems.unitoken import anyres
from unitok_jax.systems.unitoken.config import RELEASED_CANVASES
from unitok_jax.systems.unitoken.images import siglip_view

PIXELS = {"rtol": 0.0, "atol": 1e-6}  # the README's
FULL_SIDE, FULL_GRID = 384, 27  # of the table of the real sizes


def check(case):
    side, patch = case.config["S"], case.config["patch"]
    assert case.config["mean"] == case.config["std"] == [0.5] * 3 and case.config["resample"] == "bicubic"
    rule = anyres.AnyRes(tuple(map(tuple, case.config["pinpoints_wh"])), side, side // patch)
    for name in case.matching(r"img\d+\.uint8"):
        _compare_picture(case, rule, name.removesuffix("uint8"), case.input(name))
    if "full_size_table" in case:
        _compare_table(case)


def _compare_picture(case, rule, name, image):
    height, width = image.shape[:2]
    canvas = anyres.choose_canvas(width, height, rule.canvases)
    case.compare(name + "best_resolution_wh", canvas)
    case.compare(name + "padded_uint8", anyres.on_canvas(image, canvas))
    case.compare(name + "base_pixel_values", _pixels([siglip_view(image, rule.side)]), **PIXELS)
    case.compare(name + "anyres_pixel_values", _pixels(rule.pictures(image)), **PIXELS)
    assert rule.count(width, height) == len(rule.pictures(image))
    order, overview = rule.order(width, height), rule.grid**2
    np.testing.assert_array_equal(order[:overview], np.arange(overview))
    tiles = order[overview:]
    case.compare(name + "tile_token_order", np.where(tiles == anyres.ROW_END, -1, tiles - overview))


def _pixels(pictures):
    return np.moveaxis(np.asarray(to_float(np.stack(pictures))), -1, 1)


def _compare_table(case):
    sides = tuple((columns * FULL_SIDE, rows * FULL_SIDE) for columns, rows in RELEASED_CANVASES)
    rule = anyres.AnyRes(sides, FULL_SIDE, FULL_GRID)
    lines = [_line(rule, width, height) for width, height in case.expected("full_size_table")[:, :2].tolist()]
    case.compare("full_size_table", lines)


def _line(rule, width, height):
    canvas = anyres.choose_canvas(width, height, rule.canvases)
    order = rule.order(width, height)
    rows = int((order == anyres.ROW_END).sum())
    columns = (len(order) - rule.grid**2) // rows - 1
    return [width, height, *canvas, rows, columns, len(order)]


MUTATIONS = {
    "prep_anyres": (
        Mutation("the first canvas", patch=(anyres, "choose_canvas", lambda width, height, canvases: canvases[0])),
        Mutation(
            "an overview with its aspect",
            patch=(anyres, "siglip_view", lambda x, side: anyres.on_canvas(x, (side, side))),
        ),
        Mutation("the border kept", patch=(anyres, "kept_span", lambda width, height, grid: tuple(map(slice, grid)))),
    )
}
