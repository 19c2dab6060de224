"""Discriminators that judge patches of pictures: each gives a map of logits.

* ``patch``: pix2pix's PatchGAN with batch norm, as taming, LlamaGen and WeTok train with;
* ``blur``, ``pool``: MaskBit's, downsampling by a blur or by average pooling (WeTok's other two);
* ``resnet``: DualToken's, of pre-activated blocks with one convolution each.

Parameters and running statistics are explicit: `init_discriminator` makes both, `judge` takes and returns the latter
(an empty dict where the kind has none).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from unitok_jax.layers.batch_norm import STATISTICS, BatchNorm
from unitok_jax.layers.conv import CONV_KERNEL, GroupNorm
from unitok_jax.parallel.mesh import pin_rows

Pictures = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch rows columns features"]  # or any map of another size than the input's
Params = dict[str, Any]
Statistics = dict[str, Any]

BLURS = {3: (1, 2, 1), 4: (1, 3, 3, 1), 5: (1, 4, 6, 4, 1)}

SHARDING = (
    (r"/conv\w*/kernel$", CONV_KERNEL),
    (r"/shortcut/kernel$", CONV_KERNEL),
    (r"/norm\w*/scale$", (None,)),
    (r"/bias$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class DiscriminatorSettings:
    """Shape of a discriminator.

    Attributes:
        kind: see the module.
        width: channels of the first convolution.
        layers: ``patch``, ``resnet``: convolutions (blocks) of stride 2, the first one included; ``blur``, ``pool``:
            stages, each of which halves the size.
        norm: of ``patch`` alone: batch norm, as published, or group norm, which couples no pictures.
        norm_shards: equal parts of the batch that batch norm takes its statistics of; as many as devices where it is
            not synchronised between them. 1 takes those of the global batch.
        blur: taps of the blur, 3 to 5.
        dtype: compute type of the convolutions.
    """

    kind: Literal["patch", "blur", "pool", "resnet"] = "patch"
    width: int = 64
    layers: int = 3
    norm: Literal["batch", "group"] = "batch"
    norm_shards: int = 1
    blur: int = 4
    dtype: str = "float32"

    @property
    def couples(self) -> bool:
        """Whether what it says of one picture depends on the others of the batch."""
        return self.kind == "patch" and self.norm == "batch"


def init_discriminator(
    settings: DiscriminatorSettings, key: PRNGKeyArray, channels: int = 3
) -> tuple[Params, Statistics]:
    """Random parameters, drawn as the published ones are, and fresh statistics, for pictures of `channels`."""
    made = _module(settings).init(key, jnp.zeros((1, 64, 64, channels)), train=False)
    return made["params"], made.get(STATISTICS, {})


def judge(
    settings: DiscriminatorSettings, params: Params, statistics: Statistics, pictures: Pictures, train: bool = True
) -> tuple[Logits, Statistics]:
    """Logits, float32 [B, h, w, 1], high for what looks real, and the statistics after this batch.

    With `train` batch norm takes the statistics of the batch; without, the running ones, which stay as they are.
    """
    variables = {"params": params, **({STATISTICS: statistics} if statistics else {})}
    logits, changed = _module(settings).apply(variables, pictures, train=train, mutable=[STATISTICS])
    return logits.astype(jnp.float32), changed.get(STATISTICS, {})


class PatchDiscriminator(nn.Module):
    """PatchGAN: 4x4 convolutions; upstream ``NLayerDiscriminator``."""

    settings: DiscriminatorSettings

    @nn.compact
    def __call__(self, x: Pictures, train: bool) -> Logits:
        c = self.settings
        x = _leaky(_narrow(c.width, 4, 2, "conv_0", c.dtype)(x), 0.2)
        for number in range(1, c.layers + 1):
            stride, width = 2 if number < c.layers else 1, c.width * min(2**number, 8)
            x = _narrow(width, 4, stride, f"conv_{number}", c.dtype, use_bias=c.norm == "group")(x)
            x = _leaky(self._normalised(x, f"norm_{number}", train), 0.2)
        return _narrow(1, 4, 1, "conv_out", c.dtype)(x)

    def _normalised(self, x: Pictures, name: str, train: bool) -> Pictures:
        if self.settings.norm == "group":
            return GroupNorm(name=name)(x)
        return BatchNorm(self.settings.norm_shards, spread=0.02, name=name)(x, train)


class DownsamplingDiscriminator(nn.Module):
    """MaskBit's (arXiv 2409.16211): 3x3 convolutions, a blur or pooling of stride 2, group norm; upstream
    ``NLayerDiscriminatorv2``."""

    settings: DiscriminatorSettings

    @nn.compact
    def __call__(self, x: Pictures, train: bool) -> Logits:
        del train
        c, halve = self.settings, self._halve()
        x = _leaky(_same(c.width, 5, "conv_in", c.dtype, x.shape[-1])(x), 0.1)
        for number in range(c.layers):
            width = c.width * 2 ** max(number - 1, 0)
            x = halve(_same(width, 3, f"conv_{number}", c.dtype, x.shape[-1])(x))
            x = _leaky(GroupNorm(32, 1e-5, name=f"norm_{number}")(x), 0.1)
        x = _leaky(_same(x.shape[-1], 1, "conv_mid", c.dtype, x.shape[-1])(x), 0.1)
        return _same(1, 5, "conv_out", c.dtype, x.shape[-1])(x)

    def _halve(self) -> Callable[[Pictures], Pictures]:
        if self.settings.kind == "pool":
            return lambda x: nn.avg_pool(x, (2, 2), strides=(2, 2))
        return lambda x: blur(x, BLURS[self.settings.blur])


class ResnetDiscriminator(nn.Module):
    """DualToken's: pre-activated blocks of one 3x3 convolution, each with a resized 1x1 shortcut."""

    settings: DiscriminatorSettings

    @nn.compact
    def __call__(self, x: Pictures, train: bool) -> Logits:
        del train
        c = self.settings
        x = _leaky(_narrow(c.width, 3, 2, "conv_in", c.dtype)(x), 0.2)
        for number in range(1, c.layers + 1):
            stride, width = 2 if number < c.layers else 1, c.width * min(2**number, 8)
            x = _Block(width, stride, c.dtype, name=f"block_{number}")(x)
        return _narrow(1, 3, 1, "conv_out", c.dtype)(x)


class _Block(nn.Module):
    features: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Pictures) -> Logits:
        h = _leaky(GroupNorm(name="norm")(x), 0.2)
        h = _narrow(self.features, 3, self.stride, "conv", self.dtype)(h)
        if x.shape[1:3] != h.shape[1:3]:
            x = jax.image.resize(x, (*h.shape[:3], x.shape[-1]), "linear", antialias=False)
        if x.shape[-1] != self.features:
            x = _narrow(self.features, 1, 1, "shortcut", self.dtype)(x)
        return x + h


def blur(x: Pictures, taps: tuple[int, ...]) -> Logits:
    """Every channel convolved with the outer product of `taps`, normalised, at stride 2; "same" padding."""
    plane = np.outer(taps, taps) / np.sum(taps) ** 2
    kernel = jnp.broadcast_to(jnp.asarray(plane, x.dtype)[:, :, None, None], (*plane.shape, 1, x.shape[-1]))
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


def _module(settings: DiscriminatorSettings) -> nn.Module:
    kinds = {"patch": PatchDiscriminator, "resnet": ResnetDiscriminator}
    return kinds.get(settings.kind, DownsamplingDiscriminator)(settings)


def _leaky(x: Pictures, slope: float) -> Pictures:
    return jax.nn.leaky_relu(pin_rows(x), slope)


def _narrow(features: int, size: int, stride: int, name: str, dtype: DTypeLike, use_bias: bool = True) -> nn.Conv:
    """A convolution drawn from N(0, 0.02), as GAN code does; 3x3 and 4x4 ones are padded by 1."""
    pad, draw = (0 if size == 1 else 1), nn.initializers.normal(0.02)
    return nn.Conv(
        features, (size, size), strides=stride, padding=pad, use_bias=use_bias, dtype=dtype, kernel_init=draw, name=name
    )


def _same(features: int, size: int, name: str, dtype: DTypeLike, inputs: int) -> nn.Conv:
    """A convolution that keeps the size, drawn as PyTorch draws one: uniform within 1 / sqrt(fan in), biases too."""
    bound = 1 / math.sqrt(inputs * size * size)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Conv(features, (size, size), padding="SAME", dtype=dtype, kernel_init=draw, bias_init=draw, name=name)
