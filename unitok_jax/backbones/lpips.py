"""LPIPS v0.1 on VGG-16 (arXiv 1801.03924): how different two pictures look.

The network's weights are torchvision's and the linear heads those of the package `lpips`; neither comes with this
project. They are two parts, ``vgg`` and ``lpips``, each loaded from a file of its own or both from one.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unitok_jax.backbones import vgg16
from unitok_jax.losses.perceptual import feature_distance

SHIFT = (-0.030, -0.088, -0.188)  # of pictures in [-1, 1], to the network's mean
SCALE = (0.458, 0.448, 0.450)
Pictures = Float[Array, "batch height width 3"]

SHARDING = ((r"/head_\d$", (None,)),)


def init_lpips(key: PRNGKeyArray, widths: tuple[int, ...] = vgg16.WIDTHS) -> dict[str, Any]:
    """Random parameters ``{"vgg": ..., "lpips": ...}``: for their shapes, and for tests.

    The heads are equal positive weights that sum to 1 in each layer, so that a random network gives a distance too.
    """
    vgg = vgg16.VGG16(widths).init(key, jnp.zeros((1, 16, 16, 3)))["params"]
    return {"vgg": vgg, "lpips": {f"head_{i}": jnp.full(width, 1 / width) for i, width in enumerate(widths)}}


def lpips(params: dict[str, Any], first: Pictures, second: Pictures) -> Float[Array, "batch"]:
    """The distance of each pair of pictures in [-1, 1], of any size from 16 pixels on; symmetric.

    Args:
        params: holds the parts ``vgg`` and ``lpips`` (a stage's whole parameters will do).
        first, second: compared row by row. Stop the gradient of the one that is given.
    """
    taps = (vgg16.features(params["vgg"], scaled(pictures)) for pictures in (first, second))
    heads = [params["lpips"][f"head_{i}"] for i in range(len(vgg16.STAGES))]
    return feature_distance(*taps, heads)


def scaled(pictures: Pictures) -> Pictures:
    """Pictures in [-1, 1] as the network expects them."""
    return (pictures - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
