"""Drawing pictures with the autoregressive de-tokenizer: the prefix, then one code a step, all in one program.

Source: ``tok/ar_dtok`` of Tar's released code (LlamaGen's sampler); the wrapper's defaults are a temperature of 1 and
no filter.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unitok_jax.backbones.ar_image import ARImage, ARImageConfig, new_cache
from unitok_jax.backbones.decoder_block import layers_apart, layers_stacked
from unitok_jax.layers.applied import applied
from unitok_jax.sampling.draw import Keys, draw, step_keys
from unitok_jax.sampling.settings import Sampling


@dataclasses.dataclass(frozen=True)
class ARDrawing:
    """How codes are drawn.

    Attributes:
        sampling: temperature first, then top-k, then top-p, as released. A temperature of 0 takes the best code.
        guidance: scale g of ``u + g (c - u)``, where u has a condition of zeros; 1 runs no second row.
        guided_steps: the first code and so many after it are guided, the rest are not; None guides all. The released
            ``cfg_interval`` is one less, -1 for None.
    """

    sampling: Sampling = Sampling()
    guidance: float = 4.0
    guided_steps: int | None = None


def draw_codes(
    config: ARImageConfig,
    params: dict[str, Any],
    condition: Float[Array, "batch T C"],
    keys: Keys,
    drawing: ARDrawing,
) -> tuple[Int[Array, "batch N"], Float[Array, "batch N codes"]]:
    """Codes of a picture for each condition, and the guided logits that each was drawn from.

    Where the logits are not used, XLA drops them.
    """
    model, rows = ARImage(config), len(condition)
    guided = drawing.guidance > 1
    if guided:
        condition = jnp.concatenate([condition, jnp.zeros_like(condition)])
    params = layers_apart(params)

    def apply(*args: Any, method: str) -> Any:
        return applied(model, layers_stacked(params), *args, method=method)

    cache = new_cache(config, len(condition), condition.shape[1] + config.tokens - 1)
    hidden, aux = apply(apply(condition, method="prefix"), cache, method="run")

    def choose(hidden: Array, step: Array | int) -> tuple[Array, Array]:
        logits = apply(apply(hidden[:, -1], method="finish"), method="logits")
        if guided:
            c, u = jnp.split(logits, 2)
            limit = drawing.guided_steps
            logits = u + (c - u) * drawing.guidance
            logits = logits if limit is None else jnp.where(step <= limit, logits, c)
        return _draw(logits, step_keys(keys, step), drawing.sampling), logits

    def advance(carry: tuple[Array, Any], step: Array) -> tuple[tuple[Array, Any], tuple[Array, Array]]:
        codes, cache = carry
        fed = jnp.concatenate([codes, codes]) if guided else codes
        hidden, aux = apply(apply(fed[:, None], method="embed_codes"), cache, method="run")
        codes, logits = choose(hidden, step)
        return (codes, aux["cache"]), (codes, logits)

    first, logits = choose(hidden, 0)
    _, (codes, later) = jax.lax.scan(advance, (first, aux["cache"]), jnp.arange(1, config.tokens))
    codes = jnp.concatenate([first[None], codes]).T.reshape(rows, config.tokens)
    return codes, jnp.concatenate([logits[None], later]).swapaxes(0, 1)


def _draw(logits: Float[Array, "batch codes"], keys: Keys, sampling: Sampling) -> Int[Array, "batch"]:
    if sampling.temperature == 0:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    return draw(logits / sampling.temperature, keys, dataclasses.replace(sampling, temperature=1.0))
