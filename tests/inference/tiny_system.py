"""A few-line causal language model that fulfils what decoding asks of a system.

Its hidden state at a position is a decayed sum of the embeddings so far with rotary-free positions, so that a wrong
cache length, position or pad shows in the logits.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from unitok_jax.data.example import IMAGE, Example
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import draw
from unitok_jax.systems import pixels
from unitok_jax.systems.base import Emission, VisualTokens

VOCAB, WIDTH, STOP = 11, 8, 1


class Cache(struct.PyTreeNode):
    values: jax.Array  # [R, T, D]
    lengths: jax.Array  # [R]


@dataclasses.dataclass(frozen=True, eq=False)
class TinySystem:
    """Softmax attention of one head without projections over position-tagged embeddings."""

    traces: list = dataclasses.field(default_factory=list)
    begin: int = 2  # drawing it starts the unconditional row anew
    positions: int = 1  # ids a step

    def params(self, seed=0):
        a, b = np.random.default_rng(seed).normal(size=(2, VOCAB, WIDTH)).astype(np.float32)
        return {"embed": jnp.asarray(a), "head": jnp.asarray(b)}

    codebook_size = 8
    to_uint8 = staticmethod(pixels.to_uint8)

    def prompt(self, example):
        """Digits are ids; an image is a code position and a feature position in front of them."""
        images = len(example.images)
        ids = [0] * (2 * images) + [int(c) for c in example.turns[0].text.replace(IMAGE, "")]
        views = [self.views(image) for image in example.images]
        pictures = {name: [p for seen in views for p in seen[name]] for name in ("crop", "look") if views}
        modality = [Modality.CODE] * images + [Modality.FEATURE] * images
        slots = [*range(images), *range(images)]
        return dataclasses.replace(row(ids, example, modality, slots), views=pictures)

    def unconditional(self, example):
        return row([self.begin], example)

    def views(self, image, rng=None):
        return {"crop": [image[:4, :4]], "look": [image[::2, ::2]]}

    def encode_image(self, params, pixels):
        """2 x 2 codes: the mean of a quarter of the crop; one feature: the mean of the look."""
        codes = features = None
        if "crop" in pixels:
            b, i = pixels["crop"].shape[:2]
            quarters = pixels["crop"].reshape(b, i, 2, 2, 2, 2, 3).mean((3, 5, 6)).reshape(b, i, 4)
            codes = jnp.clip(jnp.floor((quarters + 1) * 4), 0, 7).astype(jnp.int32)
        if "look" in pixels:
            features = pixels["look"].mean((2, 3, 4))[..., None, None]
        return VisualTokens(codes, features, (2, 2) if codes is not None else None)

    def decode_image(self, params, codes):
        pixels = (codes.astype(jnp.float32) + 0.5) / 4 - 1
        return jnp.repeat(jnp.repeat(pixels, 2, 1), 2, 2)[..., None] * jnp.ones(3)

    def embed(self, params, batch):
        self.traces.append(batch["tokens"].shape)
        embeds = params["embed"][batch["tokens"]]
        if "pixels" not in batch:
            return embeds
        seen = self.encode_image(params, batch["pixels"])
        for kind, values in ((Modality.CODE, seen.codes[..., 0] / 4.0), (Modality.FEATURE, seen.features[..., 0, 0])):
            picked = jnp.take_along_axis(values, batch["slots"], axis=1, mode="clip")
            embeds = jnp.where((batch["modality"] == kind)[..., None], picked[..., None] + kind, embeds)
        return embeds

    def new_cache(self, rows, length):
        return Cache(jnp.zeros((rows, length, WIDTH)), jnp.zeros(rows, jnp.int32))

    def advance(self, params, embeds, cache, valid, blocks=None):
        steps = jnp.arange(embeds.shape[1])
        place = cache.lengths[:, None] + steps
        tagged = embeds + jnp.sin(place[..., None] * (1.0 + jnp.arange(WIDTH)))
        values = jax.vmap(lambda v, t, p: v.at[p].set(t))(cache.values, tagged, place)
        seen = jnp.arange(values.shape[1])[None, None] <= place[..., None]
        weights = jnp.where(seen, jnp.einsum("rsd,rtd->rst", tagged, values), -jnp.inf)
        hidden = jnp.einsum("rst,rtd->rsd", jax.nn.softmax(weights), values)
        return hidden, Cache(values, cache.lengths + valid)

    def decode_init(self, params, batch, decoding):
        return jnp.zeros(guidance.conditional(batch["tokens"], decoding).shape[0], bool)

    def decode_step(self, params, hidden, state, decoding, keys):
        assert hidden.ndim == 2 or hidden.shape[1] == self.positions
        last = hidden if hidden.ndim == 2 else hidden[:, -1]
        logits = guidance.guide(last @ params["head"].T, decoding)
        codes = draw(logits, keys, decoding.image)
        done = state | (codes == STOP)
        rows = jnp.repeat(guidance.to_rows(codes, decoding)[:, None], self.positions, 1)
        begins = codes == self.begin
        restart = jnp.concatenate([jnp.zeros_like(begins), begins])[: rows.shape[0]]
        return Emission(rows, params["embed"][rows], guidance.to_rows(done, decoding), restart), done

    def read(self, ids):
        images = [ids[:4].reshape(2, 2) % 8] if len(ids) >= 4 else []
        return " ".join(str(int(i)) for i in ids if i != STOP), images


def row(tokens, example: Example, modality=(), slots=()) -> ExampleRow:
    def padded(values):
        return np.pad(np.asarray(values, np.int32), (0, len(tokens) - len(values)))

    tokens, weights = np.asarray(tokens, np.int32), np.zeros(len(tokens), np.float32)
    return ExampleRow(tokens, tokens, weights, padded(modality), padded(slots), example.task)


def batch(*prompts, length=None):
    """Right-padded rows with garbage in the padding, which nothing may read."""
    length = length or max(map(len, prompts))
    tokens = np.full((len(prompts), length), VOCAB - 1, np.int32)
    segments = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
        segments[i, : len(prompt)] = 1
    return {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}
