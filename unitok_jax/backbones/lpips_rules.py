"""Weight rules of `lpips`: LPIPS modules with VGG slices, torchvision's VGG-16, and the linear heads alone."""

from unitok_jax.backbones.vgg16 import STAGES
from unitok_jax.weights.rules import Rule, Table
from unitok_jax.weights.transforms import CONV, Chain, Transform, Unsqueeze

HEAD: Transform = Chain((Unsqueeze((0, 2, 3)),))  # a bias-free 1x1 convolution to one channel, [1, C, 1, 1] -> [C]
SCALING = {r"scaling_layer\.(shift|scale)": "constants of the method, written in `backbones.lpips`"}


def lpips_artefacts() -> dict[str, Table]:
    """The published files that LPIPS is loaded from, by name, for a system's `artefacts`."""
    return {"vgg16": vgg16_table(), "lpips_heads": heads_table(), "lpips": lpips_table()}


def lpips_table() -> Table:
    """Rules for a whole LPIPS module: ``net.slice{1..5}.{i}`` and ``lin{0..4}.model.1``."""
    keys = [f"net.slice{stage + 1}.{index}" for stage, index in _layers()]
    return Table(tuple(_convolutions(keys)) + _heads(), SCALING)


def vgg16_table() -> Table:
    """Rules for torchvision's ``vgg16`` (``features.{i}``); its classifier is left."""
    keys = [f"features.{index}" for _, index in _layers()]
    return Table(tuple(_convolutions(keys)), {r"classifier\..*": "the classifier; LPIPS reads the convolutions"})


def heads_table() -> Table:
    """Rules for the linear heads alone (``weights/v0.1/vgg.pth`` of the package `lpips`)."""
    return Table(_heads())


def _layers() -> list[tuple[int, int]]:
    """(stage, index in torchvision's ``features``) of every convolution; ReLUs and poolings count there too."""
    found, index = [], 0
    for stage, convs in enumerate(STAGES):
        for _ in range(convs):
            found.append((stage, index))
            index += 2
        index += 1
    return found


def _convolutions(keys: list[str]) -> list[Rule]:
    kernels = [Rule(f"{key}.weight", f"vgg/conv_{i}/kernel", CONV) for i, key in enumerate(keys)]
    return kernels + [Rule(f"{key}.bias", f"vgg/conv_{i}/bias") for i, key in enumerate(keys)]


def _heads() -> tuple[Rule, ...]:
    return tuple(Rule(f"lin{i}.model.1.weight", f"lpips/head_{i}", HEAD) for i in range(len(STAGES)))
