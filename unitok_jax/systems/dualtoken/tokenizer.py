"""DualToken's tokenizer: one tower, two taps, two residual codebooks, a pixel decoder (specification, section 4).

Functions of parameters. The layers above the semantic tap run on quantised features, so whatever the tower says of a
picture (its pooled feature, zero-shot classes) has gone through the semantic codes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones.attn_projection import AttnProjection
from unitok_jax.backbones.pixel_decoder import PixelDecoder
from unitok_jax.backbones.siglip import SiglipVision
from unitok_jax.layers.applied import applied
from unitok_jax.quantizers import residual
from unitok_jax.quantizers.residual import Books, Quantized, Restarts
from unitok_jax.systems.base import Params
from unitok_jax.systems.dualtoken.config import DualTokenConfig

Pictures = Float[Array, "batch H W 3"]
Features = Float[Array, "batch length channels"]
AnyFeatures = Float[Array, "batch _ _"]
Draws = Mapping[str, Restarts | None]  # of each branch that learns


class Encoded(NamedTuple):
    """What a picture becomes.

    Attributes:
        quantized: by branch; with single codes both are the same.
        inputs: by branch, what was quantised, [B, L, features].
        tap: the output of layer `layer_sem`, before it is quantised.
        features: what takes its place, [B, L, C].
        last: the last layer's output, before the post-norm.
        pooled: [B, C].
        books: the codebooks afterwards, by branch.
        dead: by branch that learns, the share of rows that its updates found dead.
        hidden: under `every_layer`, the embeddings and every layer's output, 1 + layers of them.
    """

    quantized: dict[str, Quantized]
    inputs: dict[str, AnyFeatures]
    tap: Features
    features: Features
    last: Features
    pooled: Float[Array, "batch channels"]
    books: dict[str, Books]
    dead: dict[str, Float[Array, ""]]
    hidden: list[Features]


class Tokenizer:
    """The networks of a config. Parts of the parameters: ``vit, prequant, codebooks, postquant, decoder``."""

    def __init__(self, config: DualTokenConfig):
        self.config = config
        self.tower = SiglipVision(config.tower)
        self.decoder = PixelDecoder(config.decoder)

    def init(self, key: PRNGKeyArray, part: str) -> Params:
        """Random parameters of one part."""
        c = self.config
        if part == "codebooks":
            return {
                name: residual.new_books(c.quantizer(name), k) for name, k in _keyed(key, dict.fromkeys(c.branches))
            }
        if part in ("prequant", "postquant"):
            modules = self.projections(part == "prequant")
            width = {True: lambda name: c.vit.width, False: lambda name: c.quantizer(name).features}[part == "prequant"]
            return {
                name: modules[name].init(k, jnp.zeros((1, 1, width(name))))["params"]
                for name, k in _keyed(key, modules)
            }
        if part == "decoder":
            return self.decoder.init(key, jnp.zeros((1, c.vit.grid, c.vit.grid, c.vit.width)))["params"]
        return self.tower.init(key, jnp.zeros((1, c.vit.image_size, c.vit.image_size, c.vit.channels)))["params"]

    def projections(self, down: bool) -> dict[str, nn.Module]:
        """The attention projections before (`down`) or behind the quantizers, by name."""
        c = self.config
        if not down:
            return {name: AttnProjection(c.projection(name, False)) for name in ("pix", "sem")}
        names = {"pix": not c.single, "shortcut": not c.single and c.layer_shortcut is not None, "sem": c.prequant_sem}
        return {name: AttnProjection(c.projection(name, True)) for name, there in names.items() if there}

    def project(self, params: Params, name: str, x: AnyFeatures, down: bool, **at: Any) -> AnyFeatures:
        """One projection: `down` before its quantizer, else behind it."""
        module = self.projections(down)[name]
        return applied(module, params["prequant" if down else "postquant"][name], x, **at)

    def encode(
        self,
        params: Params,
        pictures: Pictures,
        draws: Draws | None = None,
        every_layer: bool = False,
        kept: Float[Array, " batch"] | None = None,
    ) -> Encoded:
        """Reads pictures in [-1, 1].

        Args:
            params: the parts ``vit, prequant, codebooks, postquant``.
            pictures: of the tower's size.
            draws: the branches whose codebooks learn, with the draws of their restarts; none by default.
            every_layer: also hand out every layer's output.
            kept: 0 for pictures that only fill up the batch, which codebooks learn nothing from.
        """
        c, taps = self.config, {}
        x = embedded = self._tower(params, pictures, method="embed")
        hidden, start = [embedded], 0
        for stop in sorted({c.layer_recon, c.layer_shortcut or c.layer_recon, c.layer_sem}):
            x, aux = self._tower(params, x, start, stop, every_layer, method="run")
            hidden += list(aux.get("layers", ()))
            taps[stop], start = x, stop
        inputs = self._inputs(params, taps)
        quantized, books, dead = self._quantise(params, inputs, draws or {}, kept)
        features = self.project(params, "sem", _flat(quantized["sem"].latents), down=False)
        last, aux = self._tower(params, features.astype(x.dtype), start, c.vit.layers, every_layer, method="run")
        hidden += list(aux.get("layers", ()))
        pooled = self._tower(params, last, method="finish")[1]
        return Encoded(quantized, inputs, x, features, last, pooled, books, dead, hidden)

    def _tower(self, params: Params, *args: Any, method: str) -> Any:
        return applied(self.tower, params["vit"], *args, method=method)

    def _inputs(self, params: Params, taps: Mapping[int, Features]) -> dict[str, AnyFeatures]:
        c, deep = self.config, taps[self.config.layer_sem]
        inputs = {"sem": self.project(params, "sem", deep, down=True) if c.prequant_sem else deep}
        if c.single:
            return {"pix": inputs["sem"], **inputs}
        pix = self.project(params, "pix", taps[c.layer_recon], down=True)
        if c.layer_shortcut is not None:
            shortcut = self.project(params, "shortcut", taps[c.layer_shortcut], down=True)
            pix = pix + c.weight_shortcut * shortcut
        return {"pix": pix, **inputs}

    def _quantise(
        self, params: Params, inputs: Mapping[str, AnyFeatures], draws: Draws, kept: Array | None
    ) -> tuple[Any, Any, Any]:
        quantized, books, dead = {}, dict(params["codebooks"]), {}
        for name in self.config.branches:
            config, x = self.config.quantizer(name), inputs[name]
            square = x.reshape(len(x), self.config.vit.grid, -1, x.shape[-1])
            if name in draws:
                learnt = residual.learn(config, books[name], square, draws[name], kept)
                quantized[name], books[name], dead[name] = learnt
            else:
                quantized[name] = residual.quantize(config, books[name], square)
        if self.config.single:
            quantized["pix"] = quantized["sem"]
        return quantized, books, dead

    def draw(self, key: PRNGKeyArray, pictures: int, branches: tuple[str, ...]) -> dict[str, Restarts | None]:
        """The draws of a training step over `pictures` pictures for the branches that learn."""
        rows, columns = self.config.grid
        cells = pictures * rows * columns
        return {
            name: residual.draw_restarts(self.config.quantizer(name), k, cells) for name, k in _keyed(key, branches)
        }

    def features(self, params: Params, branch: str, latents: AnyFeatures, **at: Any) -> AnyFeatures:
        """What stands behind a quantizer, [B, L, C], from the sums of codes, [B, L, features]."""
        return self.project(params, branch, latents, down=False, **at)

    def decode(self, params: Params, latents: Float[Array, "batch rows columns features"]) -> tuple[Pictures, Any]:
        """Pictures about [-1, 1], not clipped, from the sums of pixel codes; parts ``postquant, decoder``."""
        features = self.features(params, "pix", _flat(latents))
        square = features.reshape(*latents.shape[:3], -1)
        picture, aux = applied(self.decoder, params["decoder"], square)
        return picture, {"postquant": features, **aux}

    def split(self, codes: Int[Array, "*n depth"]) -> dict[str, Int[Array, "*n _"]]:
        """Codes by branch: the pixel codes come first, then the semantic ones; single codes serve both."""
        if self.config.single:
            return {"pix": codes, "sem": codes}
        depth = self.config.pix.depth
        return {"pix": codes[..., :depth], "sem": codes[..., depth:]}

    def join(self, quantized: Mapping[str, Quantized]) -> Int[Array, "batch rows columns depth"]:
        """The inverse of `split` for a picture's quantised maps."""
        return jnp.concatenate([quantized[name].codes for name in self.config.branches], -1)

    def embed(self, params: Params, branch: str, codes: Int[Array, "*n depth"]) -> Float[Array, "*n depth width"]:
        """The codebook rows of a branch's codes; part ``codebooks``."""
        name = branch if branch in params["codebooks"] else "sem"
        return residual.lookup(self.config.quantizer(branch), params["codebooks"][name], codes)

    def latents(self, params: Params, branch: str, codes: Any) -> Float[Array, "batch rows columns features"]:
        """The map, [B, h, w, features], that a branch's codes [B, rows, columns, D] stand for."""
        name = branch if branch in params["codebooks"] else "sem"
        return residual.embed(self.config.quantizer(branch), params["codebooks"][name], codes)


def _keyed(key: jax.Array, names: Any) -> Any:
    return zip(names, jax.random.split(key, len(names)), strict=True)


def _flat(x: Float[Array, "batch rows columns features"]) -> AnyFeatures:
    return x.reshape(len(x), -1, x.shape[-1])
