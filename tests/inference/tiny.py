"""A few-line causal language model that fulfils what decoding asks of a system.

Its hidden state at a position is a decayed sum of the embeddings so far with rotary-free positions, so that a wrong
cache length, position or pad shows in the logits.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from unitok_jax.data.example import Example
from unitok_jax.data.rows import ExampleRow
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import draw
from unitok_jax.systems.base import Emission

VOCAB, WIDTH, STOP = 11, 8, 1


@struct.dataclass
class Cache:
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

    def prompt(self, example):
        return row([int(c) for c in example.turns[0].text], example)

    def unconditional(self, example):
        return row([self.begin], example)

    def embed(self, params, batch):
        self.traces.append(batch["tokens"].shape)
        return params["embed"][batch["tokens"]]

    def new_cache(self, rows, length):
        return Cache(jnp.zeros((rows, length, WIDTH)), jnp.zeros(rows, jnp.int32))

    def advance(self, params, embeds, cache, valid):
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
        logits = guidance.guide(hidden @ params["head"].T, decoding)
        codes = draw(logits, keys, decoding.image)
        done = state | (codes == STOP)
        rows = jnp.repeat(guidance.to_rows(codes, decoding)[:, None], self.positions, 1)
        begins = codes == self.begin
        restart = jnp.concatenate([jnp.zeros_like(begins), begins])[: rows.shape[0]]
        return Emission(rows, params["embed"][rows], guidance.to_rows(done, decoding), restart), done

    def read(self, ids):
        return " ".join(str(int(i)) for i in ids if i != STOP), []


def row(tokens, example: Example) -> ExampleRow:
    zeros = np.zeros(len(tokens), np.int32)
    return ExampleRow(np.asarray(tokens, np.int32), zeros, zeros.astype(np.float32), zeros, zeros, example.task)


def batch(*prompts, length=None):
    """Right-padded rows with garbage in the padding, which nothing may read."""
    length = length or max(map(len, prompts))
    tokens = np.full((len(prompts), length), VOCAB - 1, np.int32)
    segments = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
        segments[i, : len(prompt)] = 1
    return {"tokens": jnp.asarray(tokens), "segments": jnp.asarray(segments)}
