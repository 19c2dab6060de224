"""VGG-16 (arXiv 1409.1556, configuration D) up to relu5_3: the network whose five feature maps LPIPS compares."""

import jax
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unitok_jax.layers.applied import applied
from unitok_jax.layers.conv import CONV_KERNEL
from unitok_jax.parallel.mesh import pin_rows

STAGES = (2, 2, 3, 3, 3)  # convolutions between two poolings
WIDTHS = (64, 128, 256, 512, 512)
Taps = tuple[Float[Array, "batch _ _ _"], ...]

SHARDING = ((r"/conv_\d+/kernel$", CONV_KERNEL), (r"/conv_\d+/bias$", (None,)))


class VGG16(nn.Module):
    """Pictures to the maps relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    Attributes:
        widths: channels of the five stages; the published network's by default, narrower ones for tests.
        dtype: compute type.
    """

    widths: tuple[int, ...] = WIDTHS
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Taps:
        taps, number = [], 0
        for stage, (convs, width) in enumerate(zip(STAGES, self.widths, strict=True)):
            if stage:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for _ in range(convs):
                conv = nn.Conv(width, (3, 3), padding=1, dtype=self.dtype, name=f"conv_{number}")
                x = nn.relu(conv(pin_rows(x)))
                number += 1
            taps.append(x)
        return tuple(taps)


def widths_of(params: dict) -> tuple[int, ...]:
    """The widths of a VGG16, read off its parameters (arrays or their shapes)."""
    last = [sum(STAGES[: stage + 1]) - 1 for stage in range(len(STAGES))]
    return tuple(params[f"conv_{number}"]["kernel"].shape[-1] for number in last)


def features(params: dict, pictures: Float[Array, "batch height width 3"]) -> Taps:
    """The five maps of pictures that are scaled as the network expects, in the dtype of the parameters."""
    dtype = jax.tree.leaves(params)[0].dtype
    return applied(VGG16(widths_of(params), dtype), params, pictures)
