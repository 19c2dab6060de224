"""DualToken's pixel decoder: a map of the tower's width, resized, narrowed and decoded as taming's VQGAN does."""

import dataclasses

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.backbones import taming_vae
from unitok_jax.backbones.taming_vae import Aux, Decoder, VAEConfig
from unitok_jax.layers.conv import GroupNorm, conv1, conv3

Map = Float[Array, "batch rows columns channels"]
Resized = Float[Array, "batch height width features"]

SHARDING = (
    *(rule for rule in taming_vae.SHARDING if "codebook" not in rule[0]),
    (r"/narrow/kernel$", ("fsdp", "tensor")),
)


@dataclasses.dataclass(frozen=True)
class PixelDecoderConfig:
    """The defaults are those of the released 384-pixel tokenizer.

    Attributes:
        latent_shape: (rows, columns) that the map is resized to; None leaves it as it is.
        in_channels: channels of the decoder's input, after the narrowing block.
        channels, multipliers, res_blocks, attn_resolutions, resolution, out_channels, groups: as `VAEConfig`.
        dtype: what is computed in.
    """

    latent_shape: tuple[int, int] | None = (24, 24)
    in_channels: int = 1024
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 4, 4, 8)
    res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (24,)
    resolution: int = 384
    out_channels: int = 3
    groups: int = 32
    dtype: str = "float32"

    @property
    def decoder(self) -> VAEConfig:
        """The decoder proper; the nominal resolutions of its levels double from the lowest, which rounds down."""
        factor = 2 ** (len(self.multipliers) - 1)
        return VAEConfig(
            channels=self.channels,
            multipliers=self.multipliers,
            res_blocks=self.res_blocks,
            z_channels=self.in_channels,
            attn_resolutions=self.attn_resolutions,
            resolution=self.resolution // factor * factor,
            out_channels=self.out_channels,
            groups=self.groups,
            dtype=self.dtype,
        )


class NarrowingBlock(nn.Module):
    """A residual block whose first convolution is 1x1 (released ``PostQuantResnetBlock``)."""

    config: PixelDecoderConfig

    @nn.compact
    def __call__(self, x: Map) -> Resized:
        c = self.config
        h = conv1(c.in_channels, c.dtype, "narrow")(nn.swish(GroupNorm(c.groups, name="norm1")(x)))
        h = conv3(c.in_channels, c.dtype, "conv2")(nn.swish(GroupNorm(c.groups, name="norm2")(h)))
        return h + (x if x.shape[-1] == c.in_channels else conv1(c.in_channels, c.dtype, "shortcut")(x))


class PixelDecoder(nn.Module):
    """Maps to pictures about [-1, 1], not clipped."""

    config: PixelDecoderConfig

    def setup(self) -> None:
        self.post_quant_conv = NarrowingBlock(self.config)
        self.decoder = Decoder(self.config.decoder)

    def __call__(self, x: Map) -> tuple[Resized, Aux]:
        """Pictures, float32 [B, H, W, 3], and the intermediates ``resized``, ``post_quant_conv``, ``decoder``."""
        x = aux_resized = resize(x, self.config.latent_shape)
        narrow = self.post_quant_conv(x)
        picture, aux = self.decoder(narrow)
        return picture.astype("float32"), {"resized": aux_resized, "post_quant_conv": narrow, "decoder": aux}


def resize(x: Map, shape: tuple[int, int] | None) -> Resized:
    """Bilinear, without antialiasing where it shrinks, pixel centres aligned (torch's ``align_corners=False``)."""
    if shape is None or x.shape[1:3] == tuple(shape):
        return x
    return jax.image.resize(x, (len(x), *shape, x.shape[-1]), "bilinear", antialias=False)
