"""DC-AE, the deep-compression autoencoder that SANA draws with (arXiv 2410.10733), as diffusers' ``AutoencoderDC``."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.errors import UserError
from unitok_jax.layers.conv import CONV_KERNEL, conv3, double
from unitok_jax.layers.linear_attention import BiasedRMSNorm, GatedConv, relu_attention
from unitok_jax.layers.mlp import activation
from unitok_jax.parallel.mesh import pin_rows
from unitok_jax.settings import near

Map = Float[Array, "batch rows columns channels"]
Mapped = Float[Array, "batch height width features"]
BLOCKS = ("ResBlock", "EfficientViTBlock")
EXPAND = 4  # hidden channels of an EfficientViT block's feed-forward layer over its own

SHARDING = (
    (r"/(conv_in|conv_out|conv|conv1|conv2)/kernel$", CONV_KERNEL),
    (r"/attn/[qkv]/kernel$", ("fsdp", "tensor")),
    (r"/attn/(out)/kernel$", ("tensor", "fsdp")),
    (r"/attn/(near|mix)_\d+/kernel$", (None, None, None, "tensor")),
    (r"/ff/inverted/kernel$", ("fsdp", "tensor")),
    (r"/ff/depth/kernel$", (None, None, None, "tensor")),
    (r"/ff/point/kernel$", ("tensor", "fsdp")),
    (r"/(norm|norm_out)/scale$", (None,)),
    (r"/bias$", (None,)),
)


@dataclasses.dataclass(frozen=True)
class DCAEConfig:
    """Shape of the autoencoder; the defaults are those of ``dc-ae-f32c32-sana``.

    Attributes:
        channels: of pictures.
        latent: channels of the latent map.
        head_dim: of the attention.
        encoder_blocks, decoder_blocks: a name of `BLOCKS` for each level, highest resolution first.
        encoder_widths, decoder_widths: channels of each level.
        encoder_layers, decoder_layers: blocks of each level; 0 at the first leaves it out.
        encoder_kernels, decoder_kernels: of each level, sizes of the neighbourhoods that its attention sees besides
            the positions themselves.
        upsample: ``interpolate`` (repeats pixels, then convolves) or ``pixel_shuffle``.
        downsample: ``Conv`` (of stride 2) or ``pixel_unshuffle``.
        decoder_activation: of the decoder's residual blocks.
        scaling: latents are multiplied by this before they are noised.
        dtype: what is computed in; the released pipeline keeps float32.
    """

    channels: int = 3
    latent: int = 32
    head_dim: int = 32
    encoder_blocks: tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    decoder_blocks: tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    encoder_widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (3,) * 6
    encoder_kernels: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_kernels: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    upsample: str = "interpolate"
    downsample: str = "Conv"
    decoder_activation: str = "silu"
    scaling: float = 0.41407
    dtype: str = "float32"

    def __post_init__(self):
        for kind in (*self.encoder_blocks, *self.decoder_blocks):
            if kind not in BLOCKS:
                raise UserError(f"dc_ae: no block {kind!r}.{near(kind, BLOCKS)}")
        if self.upsample not in ("interpolate", "pixel_shuffle") or self.downsample not in ("Conv", "pixel_unshuffle"):
            raise UserError(
                f"dc_ae: upsample {self.upsample!r}, downsample {self.downsample!r}; known are interpolate and "
                "pixel_shuffle, Conv and pixel_unshuffle"
            )

    @property
    def factor(self) -> int:
        """Pixels a latent stands for, in each direction."""
        return 2 ** (len(self.encoder_widths) - 1)


def unshuffle(x: Map) -> Mapped:
    """The four pixels of each 2x2 square as channels, those of one channel side by side: [B, h/2, w/2, 4C]."""
    return rearrange(x, "b (h r) (w s) c -> b h w (c r s)", r=2, s=2)


def shuffle(x: Map) -> Mapped:
    """Undoes `unshuffle`."""
    return rearrange(x, "b h w (c r s) -> b (h r) (w s) c", r=2, s=2)


def average_to(x: Map, channels: int) -> Mapped:
    """Means over runs of channels, so that `channels` are left."""
    return x.reshape(*x.shape[:-1], channels, -1).mean(-1)


def repeat_to(x: Map, channels: int) -> Mapped:
    """Each channel several times, so that there are `channels`."""
    return jnp.repeat(x, channels // x.shape[-1], axis=-1)


class ResBlock(nn.Module):
    """Two convolutions and a norm around a shortcut."""

    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x, features = pin_rows(x), x.shape[-1]
        h = activation(self.activation)(conv3(features, self.dtype, "conv1")(x))
        h = nn.Conv(features, (3, 3), padding=1, use_bias=False, dtype=self.dtype, name="conv2")(h)
        return x + BiasedRMSNorm(name="norm")(h)


class MultiscaleAttention(nn.Module):
    """Attention without a softmax over positions and over their neighbourhoods.

    Queries, keys and values stand one behind the other as channels, are also averaged over each neighbourhood, and
    every run of three head widths is then one head's query, key and value: so diffusers, whose weights expect it.
    """

    head_dim: int
    kernels: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Map) -> Map:
        batch, height, width, features = x.shape
        dense = [nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)(x) for name in ("q", "k", "v")]
        channels = jnp.concatenate(dense, -1)
        seen = [channels, *(self._around(channels, i, size) for i, size in enumerate(self.kernels))]
        heads = jnp.concatenate(seen, -1).reshape(batch, height * width, -1, 3 * self.head_dim)
        q, k, v = jnp.split(heads, 3, -1)
        read = relu_attention(q, k, v, quadratic=height * width <= self.head_dim)
        read = read.reshape(batch, height, width, -1)
        read = nn.Dense(features, use_bias=False, dtype=self.dtype, name="out")(read)
        return x + BiasedRMSNorm(name="norm")(read)

    def _around(self, x: Map, number: int, size: int) -> Map:
        wide = x.shape[-1]
        each: dict[str, Any] = {"features": wide, "use_bias": False, "dtype": self.dtype}
        x = nn.Conv(
            kernel_size=(size, size), padding=size // 2, feature_group_count=wide, name=f"near_{number}", **each
        )(x)
        return nn.Conv(kernel_size=(1, 1), feature_group_count=wide // self.head_dim, name=f"mix_{number}", **each)(x)


class EfficientViTBlock(nn.Module):
    """Multiscale attention, then a gated convolution around a shortcut."""

    head_dim: int
    kernels: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Map) -> Map:
        x = MultiscaleAttention(self.head_dim, self.kernels, self.dtype, name="attn")(pin_rows(x))
        return x + GatedConv(EXPAND * x.shape[-1], norm=True, dtype=self.dtype, name="ff")(x)


class Down(nn.Module):
    """Halves the size; the shortcut averages runs of the unshuffled channels."""

    features: int
    kind: str
    dtype: str
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        if self.kind == "pixel_unshuffle":
            h = unshuffle(conv3(self.features // 4, self.dtype, "conv")(x))
        else:
            h = nn.Conv(self.features, (3, 3), strides=2, padding=1, dtype=self.dtype, name="conv")(x)
        return h + average_to(unshuffle(x), self.features) if self.shortcut else h


class Up(nn.Module):
    """Doubles the size; the shortcut shuffles repeated channels."""

    features: int
    kind: str
    dtype: str
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        if self.kind == "interpolate":
            h = conv3(self.features, self.dtype, "conv")(double(x))
        else:
            h = shuffle(conv3(4 * self.features, self.dtype, "conv")(x))
        return h + shuffle(repeat_to(x, 4 * self.features)) if self.shortcut else h


class Encoder(nn.Module):
    """Pictures to latents."""

    config: DCAEConfig

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        c = self.config
        widths, last = c.encoder_widths, len(c.encoder_widths) - 1
        if c.encoder_layers[0]:
            x = conv3(widths[0], c.dtype, "conv_in")(x)
        else:
            x = Down(widths[1], c.downsample, c.dtype, shortcut=False, name="conv_in")(x)
        for i, layers in enumerate(c.encoder_layers):
            for j in range(layers):
                x = _block(c, c.encoder_blocks[i], c.encoder_kernels[i], "silu", f"down_{i}_{j}")(x)
            if i < last and layers:
                x = Down(widths[i + 1], c.downsample, c.dtype, name=f"down_{i}_{layers}")(x)
        return conv3(c.latent, c.dtype, "conv_out")(x) + average_to(x, c.latent)


class Decoder(nn.Module):
    """Latents to pictures, levels from the lowest resolution up; a level begins with its upsampling."""

    config: DCAEConfig

    @nn.compact
    def __call__(self, x: Map) -> Mapped:
        c = self.config
        widths, last = c.decoder_widths, len(c.decoder_widths) - 1
        x = conv3(widths[last], c.dtype, "conv_in")(x) + repeat_to(x, widths[last])
        for i in range(last, -1, -1):
            layers, first = c.decoder_layers[i], int(i < last)
            if first and layers:
                x = Up(widths[i], c.upsample, c.dtype, name=f"up_{i}_0")(x)
            for j in range(layers):
                act = c.decoder_activation
                x = _block(c, c.decoder_blocks[i], c.decoder_kernels[i], act, f"up_{i}_{first + j}")(x)
        x = nn.relu(BiasedRMSNorm(name="norm_out")(x))
        if c.decoder_layers[0]:
            return conv3(c.channels, c.dtype, "conv_out")(x)
        return Up(c.channels, c.upsample, c.dtype, shortcut=False, name="conv_out")(x)


class DCAE(nn.Module):
    """The autoencoder; its two sides are methods."""

    config: DCAEConfig

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, pictures: Float[Array, "batch H W 3"]) -> Map:
        """Latents, float32 [B, H/f, W/f, C], not yet scaled, of pictures in [-1, 1]."""
        return self.encoder(pictures).astype(jnp.float32)

    def decode(self, latents: Map) -> Float[Array, "batch H W 3"]:
        """Pictures, float32 about [-1, 1] (not clipped), of unscaled latents."""
        return self.decoder(latents).astype(jnp.float32)

    def __call__(self, pictures: Float[Array, "batch H W 3"]) -> Any:
        """There and back."""
        return self.decode(self.encode(pictures))


def _block(config: DCAEConfig, kind: str, kernels: tuple[int, ...], act: str, name: str) -> nn.Module:
    if kind == "ResBlock":
        return ResBlock(act, config.dtype, name=name)
    return EfficientViTBlock(config.head_dim, kernels, config.dtype, name=name)
