"""The binary tokenizers: UniWeTok's hybrid of convolutions and attention, and BitDance's convolutional autoencoder.

Source: arXiv 2602.14178, section 3.2, and the released autoencoders of ``shallowdream204/BitDance``. Pictures of any
size that the stride divides; parameters are named after the released keys.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.backbones import grid_transformer
from unitok_jax.backbones.grid_transformer import GridTransformer
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.layers.conv import GroupNorm, Map, Mapped, ResnetBlock, conv1, conv3, group_normalise, unfold
from unitok_jax.quantizers import binary
from unitok_jax.sampling.draw import Keys
from unitok_jax.settings import near

Codes = Float[Array, "batch h w bits"]
Pictures = Float[Array, "batch H W 3"]
Kernel = Float[Array, "3 3 _ _"]

KINDS = ("hybrid", "conv")
GROUPS = 32  # of every group norm
EPSILON = 1e-6

SHARDING = (
    *grid_transformer.SHARDING,
    (r"\b(conv_in|conv_out|conv1|conv2|downsample|upsample)/kernel$", (None, None, None, "fsdp")),
    (r"\b(conv_in|conv_out|downsample|upsample|gamma|beta)/bias$", (None,)),
    (r"\b(norm1|norm2|norm_out)/(scale|bias)$", (None,)),
    (r"\b(shortcut|projection|gamma|beta)/kernel$", (None, "fsdp")),
    (r"\bprojection/bias$", (None,)),
    (r"\bregisters$", (None, None)),
)


@dataclasses.dataclass(frozen=True)
class BinaryVAEConfig:
    """A binary tokenizer; the defaults are UniWeTok's (arXiv 2602.14178, appendix).

    Attributes:
        kind: ``hybrid`` widens while it strides, has a transformer in the middle and ends in a SigLu; ``conv`` is
            the autoencoder of the released BitDance generators.
        channels, multipliers: width of each level.
        res_blocks: residual blocks a level.
        z_channels: bits of a token.
        bit_groups: groups that the bits are read in.
        attn_blocks, heads: of the transformers of a hybrid.
        siglu: squash the features to [-1, 1]; None is what the kind's release does.
        generative: the decoder reads noise beside the codes.
        remat: recompute residual blocks and transformer layers in the backward pass.
        dtype: what is computed in.
    """

    kind: str = "hybrid"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 8)
    res_blocks: int = 2
    z_channels: int = 128
    bit_groups: int = 16
    attn_blocks: int = 16
    heads: int = 16
    siglu: bool | None = None
    generative: bool = True
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"binary tokenizer: no kind {self.kind!r}.{near(self.kind, KINDS)}")
        if self.kind == "hybrid" and self.res_blocks < 1:
            raise UserError("binary tokenizer: res_blocks must be at least 1; without any no level changes its width")
        if self.kind == "conv" and self.attn_blocks:
            raise UserError("binary tokenizer: kind conv has no transformer; set attn_blocks to 0")
        binary.check_groups(self.z_channels, self.bit_groups)

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    @property
    def factor(self) -> int:
        """Pixels a side of a token."""
        return 2 ** (self.levels - 1)

    @property
    def bits(self) -> int:
        """Bits of one group."""
        return self.z_channels // self.bit_groups

    @property
    def squashes(self) -> bool:
        return self.kind == "hybrid" if self.siglu is None else self.siglu

    def width(self, level: int) -> int:
        """Channels at a level; level -1 is the lowest."""
        return self.channels * self.multipliers[level]

    def transformer(self, keep: bool) -> GridTransformer:
        """The transformer in the middle, at the lowest level's width."""
        return GridTransformer(
            self.width(-1), self.heads, self.attn_blocks, self.remat, self.dtype, keep, name="transformer"
        )

    def check_size(self, height: int, width: int) -> None:
        """Makes sure that a picture can be read.

        Raises:
            UserError: for sides that the stride does not divide, or a picture of one token, which has no variance.
        """
        if height % self.factor or width % self.factor:
            sides = [max(1, round(side / self.factor)) * self.factor for side in (height, width)]
            raise UserError(
                f"picture of {height} x {width} pixels: both sides must be multiples of {self.factor}; "
                f"nearest: {sides[0]} x {sides[1]}"
            )
        if height == width == self.factor:
            raise UserError(f"picture of {height} x {width} pixels: a single token; give at least two")


def _blocks(config: BinaryVAEConfig, features: int, prefix: str, x: Map) -> Mapped:
    block = nn.remat(ResnetBlock) if config.remat else ResnetBlock
    for j in range(config.res_blocks):
        x = block(features, GROUPS, config.dtype, use_bias=False, name=f"{prefix}_{j}")(x)
    return x


class _Level(nn.Module):
    """One level of the encoder: residual blocks, then, but for the last, a convolution of stride 2."""

    config: BinaryVAEConfig
    index: int

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        c = self.config
        x = _blocks(c, c.width(self.index), "block", x)
        if self.index == c.levels - 1:
            return x
        wider = c.width(self.index + 1) if c.kind == "hybrid" else x.shape[-1]
        return nn.Conv(wider, (3, 3), strides=2, padding=1, dtype=c.dtype, name="downsample")(x)


class Encoder(nn.Module):
    """Pictures to features, [B, H / f, W / f, z]."""

    config: BinaryVAEConfig

    @nn.compact
    def __call__(self, x: Map, keep: bool = False) -> tuple[Mapped, dict[str, Any]]:
        c, aux = self.config, {}
        x = aux["conv_in"] = conv3(c.channels, c.dtype, "conv_in", use_bias=False)(x.astype(c.dtype))
        for level in range(c.levels):
            x = aux[f"down_{level}"] = _Level(c, level, name=f"down_{level}")(x)
        if c.kind == "hybrid":
            x, aux["transformer"] = c.transformer(keep)(x, grid_transformer.ENCODER)
        else:
            x = _blocks(c, c.width(-1), "mid_block", x)
        aux["norm_in"] = x
        x = aux["norm_out"] = GroupNorm(GROUPS, EPSILON, name="norm_out")(x)
        x = x if c.kind == "hybrid" else nn.silu(x)
        x = aux["conv_out"] = conv1(c.z_channels, "float32", "projection")(x.astype(jnp.float32))
        return 2 * nn.sigmoid(x) - 1 if c.squashes else x, aux


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and bias are linear in the deviation and the mean of the codes over the picture."""

    dtype: str

    @nn.compact
    def __call__(self, x: Map, codes: Codes) -> Map:
        style = codes.astype(jnp.float32)
        deviation = jnp.sqrt(jnp.var(style, axis=(1, 2), ddof=1) + EPSILON)  # unbiased, as released
        scale = nn.Dense(x.shape[-1], name="gamma")(deviation)[:, None, None]
        bias = nn.Dense(x.shape[-1], name="beta")(jnp.mean(style, axis=(1, 2)))[:, None, None]
        return group_normalise(x, scale, bias, GROUPS, EPSILON)


class _UpLevel(nn.Module):
    """One level of the decoder: residual blocks, then, but for the first, a convolution to twice the size."""

    config: BinaryVAEConfig
    index: int

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        c = self.config
        x = _blocks(c, c.width(self.index), "block", x)
        return unfold(conv3(4 * x.shape[-1], c.dtype, "upsample")(x), 2) if self.index else x


class Decoder(nn.Module):
    """Codes (and noise) to pictures, [B, H, W, 3], not clamped."""

    config: BinaryVAEConfig

    @nn.compact
    def __call__(self, codes: Codes, noise: Codes | None = None, keep: bool = False) -> tuple[Pictures, dict[str, Any]]:
        c, aux = self.config, {}
        x = codes if noise is None else jnp.concatenate([codes, noise], -1)
        x = aux["conv_in"] = conv3(c.width(-1), c.dtype, "conv_in")(x.astype(c.dtype))
        if c.kind == "hybrid":
            x, aux["transformer"] = c.transformer(keep)(x, grid_transformer.DECODER)
        x = aux["mid"] = _blocks(c, c.width(-1), "mid_block", x)
        for level in reversed(range(c.levels)):
            x = aux[f"adaptive_{level}"] = AdaptiveGroupNorm(c.dtype, name=f"adaptive_{level}")(x, codes)
            x = aux[f"up_{level}"] = _UpLevel(c, level, name=f"up_{level}")(x)
        x = aux["norm_out"] = GroupNorm(GROUPS, EPSILON, name="norm_out")(x)
        x = conv3(3, c.dtype, "conv_out")(nn.silu(x))
        return x.astype(jnp.float32), aux


class BinaryVAE(nn.Module):
    """Encoder and decoder; the codes between them are `quantizers.binary`'s. Parts: ``encoder``, ``decoder``."""

    config: BinaryVAEConfig

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, pictures: Pictures, keep: bool = False) -> tuple[Codes, dict[str, Any]]:
        """Features before quantisation, float32, in [-1, 1] behind a SigLu; `keep` hands out all layers.

        Raises:
            UserError: for sides that are no multiples of the stride.
        """
        self.config.check_size(*pictures.shape[1:3])
        return self.encoder(pictures, keep)

    def decode(self, codes: Codes, noise: Codes | None = None, keep: bool = False) -> tuple[Pictures, dict[str, Any]]:
        """Pictures from signs.

        Args:
            codes: +1 and -1, [B, h, w, z].
            noise: standard normal, like `codes`, where the decoder is generative; else None.
            keep: hand out all layers.

        Raises:
            ValueError: for noise that is missing or not wanted.
        """
        if (noise is not None) != self.config.generative:
            found = "missing" if noise is None else "given"
            raise ValueError(f"generative={self.config.generative}, but noise is {found}")
        return self.decoder(codes, noise, keep)

    def __call__(self, pictures: Pictures, noise: Codes | None = None) -> tuple[Pictures, dict[str, Any]]:
        """Pictures through their straight-through codes and back, and ``{"features", "codes"}``."""
        features, _ = self.encode(pictures)
        codes = binary.straight_through(features)
        return self.decode(codes, noise)[0], {"features": features, "codes": codes}


def draw_noise(config: BinaryVAEConfig, codes: Codes, keys: Keys) -> Codes | None:
    """The decoder's noise, one key a picture; None where it is not generative."""
    if not config.generative:
        return None
    return jax.vmap(functools.partial(jax.random.normal, shape=codes.shape[1:]))(keys)


def last_layer(
    config: BinaryVAEConfig, params: dict[str, Any], aux: dict[str, Any]
) -> tuple[Callable[[Kernel], Pictures], Kernel]:
    """(weight -> picture, weight) of the decoder's last convolution, its input held fixed, for adaptive GAN weights.

    Args:
        config, params: of the tokenizer.
        aux: of `BinaryVAE.decode`.
    """
    layer, read = params["decoder"]["conv_out"], jax.lax.stop_gradient(nn.silu(aux["norm_out"]))

    def write(kernel: Kernel) -> Pictures:
        conv = nn.Conv(3, (3, 3), padding=1, dtype=config.dtype)
        return applied(conv, {**layer, "kernel": kernel}, read).astype(jnp.float32)

    return write, layer["kernel"]
