"""The one decode loop: prefill, then steps over a static KV cache, for every system.

Both parts are jitted whole. A decode goes on from its state by any number of steps with the same program: all of
them for a batch, a few at a time for streaming. Rows are the batch's B prompts followed, under guidance, by their B
unconditional ones.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Int, Shaped

from unitok_jax.backbones.decoder_block import layers_apart, layers_stacked
from unitok_jax.parallel.mesh import pin_rows
from unitok_jax.sampling import guidance
from unitok_jax.sampling.draw import Keys, step_keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import Batch, Emission, Ids, Params, System
from unitok_jax.systems.pixels import float_pixels


class Decode(struct.PyTreeNode):
    """A decode under way.

    Attributes:
        ids: int32 [B, max_steps * P] (with more axes where a position has several codes), what was written; behind
            `lengths` zeros.
        lengths: int32 [B], ids of each sample, the one that ended it included.
        done: bool [B], samples that have ended.
        step: int32, steps taken.
        keys: [B], the samples' keys.
        cache: the system's KV cache over all R rows.
        hidden: float [R, D], what the next ids are drawn from; [R, P, D] where a step yields P > 1 positions, which
            are all those of the prompt's last one at first.
        state: the system's own.
    """

    ids: Int[Array, "B T *codes"]
    lengths: Int[Array, "B"]
    done: Bool[Array, "B"]
    step: Int[Array, ""]
    keys: Keys
    cache: Any
    hidden: Array
    state: Any


@functools.partial(jax.jit, static_argnames=("system", "decoding"))
def prefill(system: System, params: Params, batch: Batch, keys: Keys, decoding: Decoding) -> Decode:
    """Reads the prompts.

    Args:
        system: the model; hashable, as jit keeps one program a system.
        params: its parameters.
        batch: R right-padded prompts, `segments` 0 on the padding.
        keys: [B], one a sample.
        decoding: how to draw, and for how many steps there is to be room.
    """
    embeds = system.embed(params, float_pixels(batch))
    valid = (batch["segments"] > 0).sum(axis=1).astype(jnp.int32)
    state = system.decode_init(params, batch, decoding)
    last = jax.ShapeDtypeStruct((embeds.shape[0], embeds.shape[-1]), embeds.dtype)
    emission = jax.eval_shape(lambda h: system.decode_step(params, h, state, decoding, keys)[0], last)
    room = decoding.max_steps * emission.codes.shape[1]
    cache = system.new_cache(embeds.shape[0], embeds.shape[1] + room)
    hidden, cache = system.advance(params, embeds, cache, valid, batch.get("blocks"))
    samples, parallel = keys.shape[0], emission.codes.shape[1]
    read = jnp.take_along_axis(hidden, valid[:, None, None] - 1, axis=1)
    return Decode(
        ids=jnp.zeros((samples, room, *emission.codes.shape[2:]), jnp.int32),
        lengths=jnp.zeros(samples, jnp.int32),
        done=jnp.zeros(samples, bool),
        step=jnp.zeros((), jnp.int32),
        keys=keys,
        cache=cache,
        hidden=read[:, 0] if parallel == 1 else jnp.repeat(read, parallel, axis=1),
        state=state,
    )


@functools.partial(jax.jit, static_argnames=("system", "decoding"), donate_argnames=("decode",))
def decode_chunk(system: System, params: Params, decode: Decode, decoding: Decoding, steps: int) -> Decode:
    """Takes up to `steps` more steps (traced: any number runs the same program), fewer where all samples end.

    `decode` is donated: use the one returned.
    """
    end = jnp.minimum(decode.step + steps, decoding.max_steps)
    params = layers_apart(params)
    return jax.lax.while_loop(
        lambda d: (d.step < end) & ~d.done.all(),
        lambda d: _step(system, layers_stacked(params), decoding, d),
        decode,
    )


def _step(system: System, params: Params, decoding: Decoding, decode: Decode) -> Decode:
    keys = step_keys(decode.keys, decode.step)
    emission, state = system.decode_step(params, decode.hidden, decode.state, decoding, keys)
    hidden, cache = _read(system, params, decoding, decode, emission)
    codes = guidance.conditional(emission.codes, decoding)
    ended = decode.done.reshape(-1, *[1] * (codes.ndim - 1))
    column = decode.step * codes.shape[1]
    written = jnp.where(ended, 0, codes).astype(jnp.int32)
    return decode.replace(
        ids=jax.lax.dynamic_update_slice_in_dim(decode.ids, written, column, axis=1),
        lengths=decode.lengths + jnp.where(decode.done, 0, codes.shape[1]),
        done=decode.done | guidance.conditional(emission.done, decoding),
        step=decode.step + 1,
        cache=cache,
        hidden=hidden[:, -1] if codes.shape[1] == 1 else hidden,
        state=state,
    )


def _read(system: System, params: Params, decoding: Decoding, decode: Decode, emission: Emission) -> tuple[Array, Any]:
    """The language model reads what was emitted; rows that had ended stay where they are."""
    lengths = jnp.where(emission.restart, 0, decode.cache.lengths)
    cache = dataclasses.replace(decode.cache, lengths=lengths)
    ended = guidance.to_rows(decode.done, decoding)
    count = emission.embeds.shape[1] if emission.count is None else emission.count
    valid = jnp.where(ended, 0, count)
    # Else XLA's partitioner (jaxlib 0.10.2) hands rows of DualToken's to one another where `data`, `fsdp` and `tensor`
    # all are longer than 1.
    return system.advance(params, pin_rows(emission.embeds, whole=True), cache, valid)


def decode(system: System, params: Params, batch: Batch, keys: Keys, decoding: Decoding) -> Decode:
    """A whole decode: up to `decoding.max_steps` steps, until every sample has ended."""
    start = prefill(system, params, batch, keys, decoding)
    return decode_chunk(system, params, start, decoding, decoding.max_steps)


def stream(
    system: System, params: Params, batch: Batch, keys: Keys, decoding: Decoding, chunk: int
) -> Iterator[list[Ids]]:
    """The same decode, `chunk` steps at a time; yields each sample's ids so far after every chunk."""
    running = prefill(system, params, batch, keys, decoding)
    for _ in range(0, decoding.max_steps, chunk):
        running = decode_chunk(system, params, running, decoding, chunk)
        yield written(running)
        if bool(running.done.all()):
            return


def written(decode: Decode) -> list[Ids]:
    """Each sample's ids on the host, int32 [length]."""
    ids, lengths = to_host(decode.ids), to_host(decode.lengths)
    return [np.array(row[:length]) for row, length in zip(ids, lengths, strict=True)]


def to_host(array: Shaped[Array, "*n"]) -> Shaped[np.ndarray, "*n"]:
    """The whole array on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
