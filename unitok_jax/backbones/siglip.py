"""The vision tower of SigLIP (arXiv 2303.15343) and SigLIP2 (arXiv 2502.14786).

The fixed-resolution SigLIP2 checkpoints are SigLIP towers; the NaFlex ones differ in how positions are resized.
"""

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from unitok_jax.backbones import siglip_block, siglip_positions
from unitok_jax.backbones.siglip_block import Attention, Sequence, Stack, TowerConfig
from unitok_jax.errors import UserError
from unitok_jax.layers.conv import fold
from unitok_jax.layers.mlp import MLP
from unitok_jax.layers.norms import LayerNorm
from unitok_jax.settings import near

Picture = Float[Array, "batch height width channels"]

SHARDING = (
    *siglip_block.SHARDING,
    (r"\bembeddings/patch/kernel$", (None, None, None, "fsdp")),
    (r"\bembeddings/patch/bias$", (None,)),
    (r"\bhead/probe$", (None, None, None)),
)


@dataclasses.dataclass(frozen=True)
class SiglipConfig(TowerConfig):
    """A vision tower; the defaults are SO400M/14 at 384 pixels.

    Attributes:
        image_size: side of the pictures, in pixels, that the position table is made for.
        patch_size: side of a patch, in pixels; what is left over at the right and the bottom is not looked at.
        channels: of the pictures.
        pooling: whether there is an attention pooling head.
        position_resize: how the table is brought to another grid, a name in `siglip_positions.METHODS`.
    """

    image_size: int = 384
    patch_size: int = 14
    channels: int = 3
    pooling: bool = True
    position_resize: str = "bicubic"

    def __post_init__(self):
        super().__post_init__()
        if self.position_resize not in siglip_positions.METHODS:
            raise UserError(
                f"siglip: no position_resize {self.position_resize!r}."
                f"{near(self.position_resize, siglip_positions.METHODS)}"
            )

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


class Patches(nn.Module):
    """A valid convolution whose stride is its size, as one matrix product; kernel [p, p, channels, D]."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, images: Picture) -> tuple[Sequence, tuple[int, int]]:
        c, size = self.config, self.config.patch_size
        rows, columns = images.shape[1] // size, images.shape[2] // size
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (size, size, images.shape[-1], c.width))
        bias = self.param("bias", nn.initializers.zeros, (c.width,))
        patches = fold(images[:, : rows * size, : columns * size], size).reshape(len(images), rows * columns, -1)
        product = patches.astype(c.dtype) @ kernel.reshape(-1, c.width).astype(c.dtype)
        return product + bias.astype(c.dtype), (rows, columns)


class Embeddings(nn.Module):
    """Patches with their positions added."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, images: Picture) -> Sequence:
        c = self.config
        x, grid = Patches(c, name="patch")(images)
        init = nn.initializers.normal(c.width**-0.5)
        table = nn.Embed(c.grid**2, c.width, embedding_init=init, name="position").embedding
        return x + siglip_positions.resize(table, grid, c.position_resize).astype(x.dtype)


class PoolingHead(nn.Module):
    """One learned query reads all tokens: ``r + mlp(norm(r))`` of what it reads, [B, D]."""

    config: SiglipConfig

    @nn.compact
    def __call__(self, x: Sequence) -> Float[Array, "batch D"]:
        c = self.config
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, c.width))
        query = probe.astype(x.dtype).repeat(len(x), axis=0)
        x = Attention(c, name="attention")(query, x)
        return (x + MLP(c.ffn, "gelu_tanh", dtype=c.dtype, name="mlp")(LayerNorm(c.eps, name="norm")(x)))[:, 0]


class SiglipVision(nn.Module):
    """The tower. Its parts are methods, so that features may be replaced between two spans of layers."""

    config: SiglipConfig

    def setup(self) -> None:
        c = self.config
        self.embeddings = Embeddings(c)
        self.layers = Stack(c)
        self.post_norm = LayerNorm(c.eps)
        if c.pooling:
            self.head = PoolingHead(c)

    def embed(self, images: Picture) -> Sequence:
        """Patches with positions, [B, n, D], of pictures in [-1, 1]; n is counted along rows."""
        return self.embeddings(images)

    def run(self, x: Sequence, first: int, end: int, every_layer: bool = False) -> tuple[Sequence, dict[str, Any]]:
        """The layers from `first` to before `end`, as `siglip_block.Stack`."""
        return self.layers(x, first, end, every_layer)

    def finish(self, x: Sequence) -> tuple[Sequence, Float[Array, "batch D"] | None]:
        """Post-norm and, where there is a pooling head, what it makes of the result."""
        x = self.post_norm(x)
        return x, self.head(x) if self.config.pooling else None

    def __call__(self, images: Picture, every_layer: bool = False) -> tuple[Sequence, dict[str, Any]]:
        """Reads pictures.

        Args:
            images: in [-1, 1], [B, H, W, 3]; any size of at least one patch.
            every_layer: also hand out the hidden states after each layer.

        Returns:
            The last hidden states after the post-norm, [B, n, D], and ``{"embeddings", "spans", "pooled"}`` (and
            ``"layers"``, see `siglip_block.Stack`).
        """
        embedded = self.embed(images)
        x, aux = self.layers(embedded, every_layer=every_layer)
        x, pooled = self.finish(x)
        return x, {"embeddings": embedded, "pooled": pooled, **aux}
