"""TA-Tok, the text-aligned tokenizer: a SigLIP2 tower, pooling by scale, a codebook of words, and a decoder.

Source: arXiv 2506.18898, section 3.1, and ``tok/ta_tok.py`` of the released code.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from unitok_jax.backbones.siglip import SiglipConfig, SiglipVision
from unitok_jax.errors import UserError
from unitok_jax.quantizers import text_aligned
from unitok_jax.quantizers.nearest import Quantized

Pictures = Float[Array, "batch H W 3"]
Tokens = Float[Array, "batch n channels"]
Codes = Int[Array, "batch n"]
CODEBOOKS = (r"^(ta_tok|vq)/codebook/",)  # stay float32 though frozen: distances are float32
RELEASED_DECODER = SiglipConfig(
    ffn=3072, layers=3, heads=12, image_size=16, patch_size=1, channels=1536, position_resize="bilinear_antialias"
)  # what three layers of the library's default `Siglip2VisionConfig` are


@dataclasses.dataclass(frozen=True)
class TATokConfig:
    """Sizes and switches of the tokenizer; the defaults are the release's.

    Attributes:
        encoder: the SigLIP2 tower. The layers behind the one that is read, its last norm and its pooling head are in
            the released file and unused.
        select_layer: which of the tower's hidden states is read, counted as ``hidden_states`` are: -2 leaves out the
            last layer.
        decoder: the scale-adaptive decoder; its `channels` are the width of a code.
        codebook_size: number of codes.
        l2_norm: cosine codes, as released; False compares by Euclidean distance, as equation 1 does.
        temperature: of the softmax over cosines that training draws codes from.
        antialias: whether pictures of another size are resized with antialiasing. The pinned torchvision 0.16 does
            not; later versions do.
        draw: codes are drawn in use as in training. The released scripts for reading pictures do so, the released
            language model's tower takes the best code.
        chunk: codes compared at a time.
    """

    encoder: SiglipConfig = dataclasses.field(default_factory=SiglipConfig)
    select_layer: int = -2
    decoder: SiglipConfig = RELEASED_DECODER
    codebook_size: int = 65536
    l2_norm: bool = True
    temperature: float = 0.03
    antialias: bool = False
    draw: bool = False
    chunk: int = text_aligned.CHUNK

    def __post_init__(self):
        if not 0 <= self.layers_read <= self.encoder.layers:
            raise UserError(f"ta_tok: select_layer {self.select_layer}, but the tower has {self.encoder.layers} layers")
        if self.draw and not self.l2_norm:
            raise UserError("ta_tok: draw needs l2_norm; codes are drawn by their cosines")

    @property
    def layers_read(self) -> int:
        """How many of the tower's layers are run."""
        return self.select_layer + self.encoder.layers + 1 if self.select_layer < 0 else self.select_layer

    @property
    def tower(self) -> SiglipConfig:
        """The encoder, cut where it is read."""
        cuts = {*self.encoder.cuts, self.layers_read} - {0, self.encoder.layers}
        return dataclasses.replace(self.encoder, cuts=tuple(sorted(cuts)))

    @property
    def code_width(self) -> int:
        """Channels of a code."""
        return self.decoder.channels

    def side(self, scale: int) -> int:
        """Rows (and columns) of codes of a picture at a pool scale."""
        return self.encoder.grid // scale

    def tokens(self, scale: int) -> int:
        """Codes of a picture at a pool scale: 729, 169 and 81 as released."""
        return self.side(scale) ** 2


class Codebook(nn.Module):
    """The words, frozen, and the linear map that learns.

    Parameters: ``embedding`` [K, C], ``kernel`` [C, C], ``bias`` [C]. The words come from a language model (see
    `codebook`); without one they are drawn. The map begins as the identity, an assumption.
    """

    config: TATokConfig

    def setup(self) -> None:
        c = self.config
        width = c.code_width
        self.embedding = self.param("embedding", nn.initializers.normal(width**-0.5), (c.codebook_size, width))
        self.kernel = self.param("kernel", lambda key, shape: jnp.eye(*shape), (width, width))
        self.bias = self.param("bias", nn.initializers.zeros, (width,))

    def rows(self) -> Float[Array, "codes channels"]:
        """The effective codebook."""
        return text_aligned.effective_codebook(self.embedding, self.kernel, self.bias, l2_norm=self.config.l2_norm)

    def look_up(self, codes: Codes) -> Tokens:
        """The rows of some codes."""
        words = jax.lax.stop_gradient(self.embedding)
        return text_aligned.look_up(words, self.kernel, self.bias, codes, l2_norm=self.config.l2_norm)

    def search(self, compared: Tokens, key: Key[Array, ""] | None) -> Codes:
        """The best codes, or drawn ones with a key."""
        c = self.config
        rows = jax.lax.stop_gradient(self.rows())
        compared = jax.lax.stop_gradient(compared)
        return text_aligned.search(compared, rows, l2_norm=c.l2_norm, key=key, temperature=c.temperature, chunk=c.chunk)


class Normalise(nn.Module):
    """Buffers that the released file holds: a picture u in [0, 1] becomes ``(u - shift) / scale``, each 0.5."""

    @nn.compact
    def __call__(self, pictures: Pictures) -> Pictures:
        half = nn.initializers.constant(0.5)
        shift, scale = (self.param(name, half, (3,)) for name in ("shift", "scale"))
        return ((pictures + 1) / 2 - shift) / scale


class TATok(nn.Module):
    """The tokenizer; its parts are methods. Pictures are [B, H, W, 3] in [-1, 1]."""

    config: TATokConfig

    def setup(self) -> None:
        c = self.config
        self.normalise = Normalise()
        self.encoder = SiglipVision(c.tower)
        self.encode_task = nn.Dense(c.encoder.width, dtype=c.encoder.dtype)
        self.in_linear = nn.Dense(c.code_width, dtype=c.encoder.dtype)
        self.codebook = Codebook(c)
        self.out_linear = nn.Dense(c.code_width, dtype=c.decoder.dtype)
        self.decoder = SiglipVision(c.decoder)
        self.decode_task_in = nn.Dense(c.decoder.width, dtype=c.decoder.dtype)
        self.decode_task_out = nn.Dense(c.decoder.width, dtype=c.decoder.dtype)

    def features(self, pictures: Pictures) -> Tokens:
        """What the tower makes of pictures at the layer that is read, [B, n, D]; other sizes are resized first."""
        x = self.encoder.embed(self.resize(self.normalise(pictures)))
        return self.encoder.run(x, 0, self.config.layers_read)[0]

    def resize(self, pictures: Pictures) -> Float[Array, "batch side side 3"]:
        """Pictures at the tower's size, bilinear, their aspect not kept."""
        side = self.config.encoder.image_size
        if pictures.shape[1:3] == (side, side):
            return pictures
        shape = (len(pictures), side, side, 3)
        return jax.image.resize(
            pictures, shape, "linear", antialias=self.config.antialias, precision=jax.lax.Precision.HIGHEST
        )

    def project(self, features: Tokens, scale: int) -> Float[Array, "batch tokens code_width"]:
        """What is compared with the codes: features pooled, mapped twice, and normalised."""
        return text_aligned.source(self._projected(features, scale)[1], l2_norm=self.config.l2_norm)

    def _projected(self, features: Tokens, scale: int) -> tuple[Array, Array]:
        mapped = jnp.tanh(self.encode_task(pool(features, scale)))
        return mapped, self.in_linear(mapped)

    def encode(self, pictures: Pictures, scale: int = 1, key: Key[Array, ""] | None = None) -> Codes:
        """Codes, int32 [B, n], along rows: the best ones, or drawn with a key."""
        return self.codebook.search(self.project(self.features(pictures), scale), key)

    def encode_scales(
        self, pictures: Pictures, scales: tuple[int, ...], key: Key[Array, ""] | None = None
    ) -> Int[Array, "batch all"]:
        """The codes at several scales, one scale after the other; the tower runs once."""
        features = self.features(pictures)
        return self.codebook.search(jnp.concatenate([self.project(features, s) for s in scales], axis=1), key)

    def quantize(self, compared: Tokens, codes: Codes) -> Quantized:
        """The quantised vectors of codes taken for what was compared."""
        return text_aligned.straight_through(codes, compared, self.codebook.look_up(codes))

    def decode(self, latents: Tokens) -> tuple[Float[Array, "batch n width"], dict[str, Any]]:
        """What the decoder makes of quantised vectors [B, n, C]: features that resemble the tower's, [B, n, D].

        Both de-tokenizers read them. `aux` holds the decoder's ``embeddings`` and its input, ``bottleneck``.
        """
        bottleneck = self.out_linear(latents)
        side = math.isqrt(latents.shape[1])
        x, aux = self.decoder(bottleneck.reshape(len(latents), side, side, -1))
        out = self.decode_task_out(jnp.tanh(self.decode_task_in(x)))
        return out, {"bottleneck": bottleneck, "embeddings": aux["embeddings"]}

    def decode_codes(self, codes: Codes) -> Float[Array, "batch n width"]:
        """`decode` of codes [B, n]."""
        rows = self.codebook.look_up(codes)
        return self.decode(text_aligned.source(rows, l2_norm=self.config.l2_norm))[0]

    def __call__(
        self, pictures: Pictures, scale: int = 1, key: Key[Array, ""] | None = None, codes: Codes | None = None
    ) -> tuple[Float[Array, "batch n width"], dict[str, Any]]:
        """Pictures to decoded features, [B, n, D].

        Args:
            pictures: in [-1, 1].
            scale: of the pooling.
            key: draws the codes; None takes the best.
            codes: taken in the place of what the search finds.

        Returns:
            The features, and ``{"features", "mapped", "projected", "quantized", "bottleneck", "embeddings"}``.
        """
        features = self.features(pictures)
        mapped, projected = self._projected(features, scale)
        compared = text_aligned.source(projected, l2_norm=self.config.l2_norm)
        codes = self.codebook.search(compared, key) if codes is None else codes
        quantized = self.quantize(compared, codes)
        decoded, aux = self.decode(quantized.latents)
        return decoded, {
            "features": features, "mapped": mapped, "projected": projected, "quantized": quantized, **aux
        }  # fmt: skip

    def everything(self, pictures: Pictures) -> Any:
        """Runs every part, the unused ones too, so that `init` makes all parameters that the released file has."""
        self.encoder(pictures)
        return self(pictures)[0]


def pool(features: Tokens, scale: int) -> Float[Array, "batch pooled channels"]:
    """Means over squares of `scale` x `scale` tokens of a square grid; rows and columns left over are dropped."""
    if scale == 1:
        return features
    grid = math.isqrt(features.shape[1])
    side = grid // scale
    square = features.reshape(len(features), grid, grid, -1)[:, : side * scale, : side * scale]
    cells = square.reshape(len(features), side, scale, side, scale, -1).astype(jnp.float32)
    return cells.mean((2, 4)).reshape(len(features), side * side, -1).astype(features.dtype)


def teacher_features(
    tower: SiglipVision, params: dict[str, Any], pictures: Pictures, layers: int, scale: int
) -> Float[Array, "batch pooled channels"]:
    """What the decoder learns to give back: a frozen tower's features, pooled alike (which layer is an assumption)."""

    def run(module: SiglipVision, pictures: Pictures) -> Tokens:
        return module.run(module.embed(pictures), 0, layers)[0]

    return pool(nn.apply(run, tower)({"params": params}, pictures), scale)
