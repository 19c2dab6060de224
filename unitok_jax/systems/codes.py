"""Where visual codes enter a batch: the same function for codes that came with the data and for those of the step."""

import jax.numpy as jnp
from jaxtyping import Array, Int

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
