"""First parameters of parts that begin as others' weights: what the recipes' ``*_start`` folders hold.

Of the language model's tables see `embeddings`, of longer position tables `backbones.ar_image.stretch_positions`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unitok_jax.quantizers import text_aligned
from unitok_jax.systems.base import Params


def ta_tok(
    system: Any, key: jax.Array, tower: dict[str, Any], table: Float[Array, "vocabulary C"], **choice: Any
) -> Params:
    """``{"ta_tok": ...}`` at its first step: the tower's encoder, and words of a language model as codes.

    Args:
        system: of the recipe.
        key: draws the rest.
        tower: parameters of a SigLIP2 as the system's ``vit``.
        table: a language model's embeddings, as wide as the codes, without rows that stand for nothing.
        choice: `metric` and `largest` of `text_aligned.choose_words`.
    """
    made = system.init(key, ("ta_tok",))["ta_tok"]
    ids = text_aligned.choose_words(table, system.config.ta_tok.codebook_size, **choice)
    codebook = {**made["codebook"], "embedding": jnp.asarray(table[ids], jnp.float32)}
    return {"ta_tok": {**made, "encoder": tower, "codebook": codebook}}


def sana(system: Any, key: jax.Array, released: dict[str, Any]) -> Params:
    """``{"sana": ...}`` at its first step: SANA's parameters, but for the condition's first layer, which is new.

    Args:
        system: of the recipe.
        key: draws the new layer.
        released: SANA's parameters, imported with a `SanaConfig` of its own 2304 channels.
    """
    drawn = system.init(key, ("sana",))["sana"]["projection"]["fc1"]
    return {"sana": {**released, "projection": {**released["projection"], "fc1": drawn}}}
