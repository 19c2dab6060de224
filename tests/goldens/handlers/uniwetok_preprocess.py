"""UniWeTok's crops, their seeds, and pictures to bytes."""

import numpy as np

from unitok_jax.systems.uniwetok import images


def check(case):
    given, picture = case.config, case.input("image")
    side = given["resolution"]
    case.compare("center_crop", images.center_crop(picture, side))
    seeds = [images.item_seed(given["seed"], given["epoch"], i) for i in range(len(case.expected("numpy_seeds")))]
    case.compare("numpy_seeds", np.array(seeds))
    for name in case.matching(r"train_sample_(center_)?\d+"):
        seed = seeds[int(name.rpartition("_")[2])]
        view = images.class_view(picture, side, 0.0 if "center" in name else 1.0, np.random.RandomState(seed))
        case.compare(name, (view / 127.5 - 1).transpose(2, 0, 1), rtol=0, atol=1e-6)
    for name in case.matching(r"draws_\d+"):
        case.compare(name, [np.random.RandomState(seeds[int(name.removeprefix("draws_"))]).rand()])
    case.compare("wetok_resize_centercrop", images.cover(picture, side, side) / 127.5 - 1, rtol=0, atol=1e-6)
    values = case.input("float_in")
    case.compare("uint8_c2i", images.to_bytes(values))
    case.compare("unit_eval", images.to_unit(values), rtol=0, atol=1e-6)
