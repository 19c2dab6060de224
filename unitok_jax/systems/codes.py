"""Where visual codes enter a batch: the same function for codes that came with the data and for those of the step."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import Modality
from unitok_jax.systems.base import Batch


def write_codes(batch: Batch, codes: Int[Array, "batch images n"], offset: int) -> Batch:
    """Writes ``offset + code`` at the code positions of `tokens`, and at the targets that they are.

    Args:
        batch: with `slots` counting codes over the row's pictures.
        codes: of each picture slot of each row; those of empty slots are not read.
        offset: the id of code 0.
    """
    flat = codes.reshape(codes.shape[0], -1).astype(jnp.int32) + offset
    is_code = batch["modality"] == Modality.CODE
    ids = jnp.take_along_axis(flat, jnp.where(is_code, batch["slots"], 0), axis=1)
    tokens = jnp.where(is_code, ids, batch["tokens"])
    follows = jnp.pad(is_code[:, 1:], ((0, 0), (0, 1))) & (batch["loss_weights"] > 0)
    following = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    return {**batch, "tokens": tokens, "targets": jnp.where(follows, following, batch["targets"])}


def stacked(example: Example, shape: tuple[int, ...], size: int) -> Int[np.ndarray, "images *codes"]:
    """The codes that came with an example's pictures, int32.

    Args:
        example: with codes of one picture or more.
        shape: what each picture's are brought to; -1 is as many as there are.
        size: codes of the tokenizer.

    Raises:
        BadExample: if the pictures' differ in number, do not have the shape or are another tokenizer's.
    """
    given = example.codes or ()
    try:
        codes = np.stack([np.reshape(one, shape) for one in given])
    except ValueError:
        shapes = ", ".join(str(np.shape(one)) for one in given)
        raise BadExample("no precomputed codes", f"{example.id}: codes {shapes}, expected {shape} a picture") from None
    if codes.max(initial=0) >= size:
        raise BadExample("no precomputed codes", f"{example.id}: code {codes.max()}, the tokenizer has {size}")
    return codes.astype(np.int32)
