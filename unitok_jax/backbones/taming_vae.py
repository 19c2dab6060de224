"""The taming-style convolutional VQ autoencoder: Chameleon's VQGAN and LlamaGen's VQ-VAE are two settings of it.

Sources: Chameleon `vqgan.py` (attention in the middle only, plain codebook) and LlamaGen `vq_model.py` (attention
also at the lowest resolution, l2-normalised codebook of 8 channels).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from unitok_jax.layers.applied import applied
from unitok_jax.layers.conv import (
    CONV1_KERNEL,
    CONV_KERNEL,
    AttentionBlock,
    GroupNorm,
    ResnetBlock,
    conv1,
    conv3,
    double,
    downsample,
    fold,
    unfold,
)
from unitok_jax.quantizers import nearest

Aux = dict[str, Any]  # intermediates, nested like the parameters
Pictures = Float[Array, "batch height width channels"]
Map = Float[Array, "batch rows columns features"]
Latents = Float[Array, "batch rows columns embed_dim"]
Codes = Int[Array, "batch rows columns"]
Kernel = Float[Array, "3 3 _ _"]

SHARDING = (
    (r"/(conv_in|conv_out|conv1|conv2|downsample|upsample)/kernel$", CONV_KERNEL),
    (r"(^|/)(quant_conv|post_quant_conv|shortcut|q|k|v|out)/kernel$", CONV1_KERNEL),
    (r"(^|/)codebook/embedding$", (None, None)),
    (r"/(norm|norm1|norm2|norm_out)/scale$", (None,)),
    (r"/bias$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Shape of a taming VAE; the defaults are Chameleon's.

    Attributes:
        channels: width at multiplier 1.
        multipliers: one a level, highest resolution first; every level but the last halves the size.
        res_blocks: residual blocks of an encoder level; a decoder level has one more.
        z_channels: channels between encoder and `quant_conv`.
        embed_dim: channels of a code.
        codebook_size: number of codes.
        attn_resolutions: nominal resolutions whose residual blocks are each followed by attention.
        resolution: nominal input size, from which those of the levels follow; real inputs may have any size that
            `factor` divides.
        in_channels: of the picture that is read.
        out_channels: of the picture that is written.
        groups: of the group norms.
        patch: side of the square of pixels that `conv_in` and `conv_out` see as one, its channels side by side; 1 in
            the released models, 2 spares small networks the costly full resolution.
        l2_norm: whether latents and codes are normalised before they are compared, and codes when looked up.
        dtype: compute type of the convolutions.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    z_channels: int = 256
    embed_dim: int = 256
    codebook_size: int = 8192
    attn_resolutions: tuple[int, ...] = ()
    resolution: int = 512
    in_channels: int = 3
    out_channels: int = 3
    groups: int = 32
    patch: int = 1
    l2_norm: bool = False
    dtype: str = "float32"

    @property
    def factor(self) -> int:
        """Pixels a code stands for, in each direction."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def width(self, level: int) -> int:
        """Channels of a level."""
        return self.channels * self.multipliers[level]

    def attends(self, level: int) -> bool:
        """Whether the level's nominal resolution is listed in `attn_resolutions`."""
        return self.resolution // (self.patch * 2**level) in self.attn_resolutions


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where the level has it, then resampling."""

    config: VAEConfig
    index: int
    blocks: int
    resample: Literal["downsample", "upsample"] | None

    @nn.compact
    def __call__(self, x: Pictures) -> tuple[Map, Aux]:
        c, aux = self.config, {}
        for j in range(self.blocks):
            block = ResnetBlock(c.width(self.index), c.groups, c.dtype, name=f"block_{j}")
            x = aux[f"block_{j}"] = block(x)
            if c.attends(self.index):
                x = aux[f"attn_{j}"] = AttentionBlock(c.groups, c.dtype, name=f"attn_{j}")(x)
        if self.resample == "downsample":
            x = aux["downsample"] = downsample(x.shape[-1], c.dtype, "downsample")(x)
        elif self.resample == "upsample":
            x = aux["upsample"] = conv3(x.shape[-1], c.dtype, "upsample")(double(x))
        return x, aux


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Pictures) -> tuple[Map, Aux]:
        c, aux, channels = self.config, {}, x.shape[-1]
        x = aux["block_1"] = ResnetBlock(channels, c.groups, c.dtype, name="block_1")(x)
        x = aux["attn_1"] = AttentionBlock(c.groups, c.dtype, name="attn_1")(x)
        x = aux["block_2"] = ResnetBlock(channels, c.groups, c.dtype, name="block_2")(x)
        return x, aux


class Encoder(nn.Module):
    """Pictures to maps of `z_channels`, smaller by `factor`."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Pictures) -> tuple[Map, Aux]:
        c, aux = self.config, {}
        last = len(c.multipliers) - 1
        x = aux["conv_in"] = conv3(c.channels, c.dtype, "conv_in")(fold(x, c.patch))
        for i in range(last + 1):
            level = Level(c, i, c.res_blocks, "downsample" if i < last else None, name=f"down_{i}")
            x, aux[f"down_{i}"] = level(x)
        x, aux["mid"] = Middle(c, name="mid")(x)
        x = aux["norm_out"] = GroupNorm(c.groups, name="norm_out")(x)
        x = aux["conv_out"] = conv3(c.z_channels, c.dtype, "conv_out")(nn.swish(x))
        return x, aux


class Decoder(nn.Module):
    """Maps of `z_channels` to pictures, larger by `factor`; levels run from the lowest resolution up."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: Map) -> tuple[Pictures, Aux]:
        c, aux = self.config, {}
        last = len(c.multipliers) - 1
        x = aux["conv_in"] = conv3(c.width(last), c.dtype, "conv_in")(x)
        x, aux["mid"] = Middle(c, name="mid")(x)
        for i in reversed(range(last + 1)):
            level = Level(c, i, c.res_blocks + 1, "upsample" if i else None, name=f"up_{i}")
            x, aux[f"up_{i}"] = level(x)
        x = aux["norm_out"] = GroupNorm(c.groups, name="norm_out")(x)
        x = conv3(c.out_channels * c.patch**2, c.dtype, "conv_out")(nn.swish(x))
        x = aux["conv_out"] = unfold(x, c.patch)
        return x, aux


class Codebook(nn.Module):
    """Rows of codes; drawn from a unit normal over sqrt(embed_dim), about as long as a row of unit length."""

    size: int
    features: int

    def setup(self) -> None:
        init = nn.initializers.normal(self.features**-0.5)
        self.embedding = self.param("embedding", init, (self.size, self.features))

    def __call__(self) -> Float[Array, "codes features"]:
        return self.embedding


class TamingVAE(nn.Module):
    """Encoder, quantizer, decoder. Call a method with ``applied(TamingVAE(config), params, x, method="encode")``;
    each reads its own part of the parameters only.
    """

    config: VAEConfig

    def setup(self) -> None:
        c = self.config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.quant_conv = conv1(c.embed_dim, c.dtype, None)
        self.post_quant_conv = conv1(c.z_channels, c.dtype, None)
        self.codebook = Codebook(c.codebook_size, c.embed_dim)

    def encode(self, images: Pictures) -> tuple[Latents, Aux]:
        """Pictures in [-1, 1], [B, H, W, 3], to latents before quantisation, float32 [B, H/f, W/f, embed_dim]."""
        z, aux = self.encoder(images)
        return self.quant_conv(z).astype("float32"), {"encoder": aux}

    def quantize(self, latents: Latents) -> nearest.Quantized:
        """The nearest codes of latents [B, h, w, embed_dim]."""
        return nearest.quantize(latents, self.codebook(), l2_norm=self.config.l2_norm)

    def decode(self, latents: Latents) -> tuple[Pictures, Aux]:
        """Pictures, float32 [B, H, W, 3] about [-1, 1] (not clipped), from quantised latents [B, h, w, embed_dim]."""
        x = self.post_quant_conv(latents)
        picture, aux = self.decoder(x)
        return picture.astype("float32"), {"post_quant_conv": x, "decoder": aux}

    def lookup(self, codes: Codes) -> Latents:
        """The latents, [B, h, w, embed_dim], that codes stand for."""
        return nearest.lookup(self.codebook(), codes, l2_norm=self.config.l2_norm)

    def decode_codes(self, codes: Codes) -> tuple[Pictures, Aux]:
        """Pictures from codes [B, h, w]."""
        return self.decode(self.lookup(codes))

    def __call__(self, images: Pictures) -> tuple[Pictures, Aux]:
        """Reconstructs pictures with straight-through gradients; `aux` also holds `latents` and `quantized`."""
        latents, encoded = self.encode(images)
        quantized = self.quantize(latents)
        picture, decoded = self.decode(quantized.latents)
        return picture, {**encoded, **decoded, "latents": latents, "quantized": quantized}


def last_layer(config: VAEConfig, params: dict[str, Any], aux: Aux) -> tuple[Callable[[Kernel], Pictures], Kernel]:
    """The decoder's last convolution, its input held fixed, for the adaptive weight of a discriminator.

    Args:
        config: of the VAE.
        params: its parameters.
        aux: what it returned with the picture.

    Returns:
        A function from the kernel to the picture, and the kernel.
    """
    own = params["decoder"]["conv_out"]
    hidden = jax.lax.stop_gradient(nn.swish(aux["decoder"]["norm_out"]))
    conv = conv3(config.out_channels * config.patch**2, config.dtype, None)

    def write(kernel: Kernel) -> Pictures:
        return unfold(applied(conv, {**own, "kernel": kernel}, hidden), config.patch).astype("float32")

    return write, own["kernel"]
