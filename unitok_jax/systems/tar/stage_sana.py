"""Training of the diffusion de-tokenizer: SANA learns to draw from TA-Tok's decoded features.

The paper trains cross-attention and what embeds the condition (arXiv 2506.18898, section 3.2 and appendix E); the loss
is the public SANA recipe's. The negative condition, which stands in for a dropped one, is stored with the release; how
it came about is not public.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics
from jaxtyping import Array

from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.sampling import flow
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.tar import pictures, scales
from unitok_jax.systems.tar.sana_detokenizer import TRAINED, flow_loss
from unitok_jax.systems.tar.ta_tok import CODEBOOKS


@dataclasses.dataclass(frozen=True)
class SanaOptions:
    """`config.stage_options` of stage ``sana``.

    Attributes:
        scales, scale_weights: pool scales of the condition and how often each is drawn, once a micro-batch.
        condition_dropout: share of the pictures whose condition is the stored negative one.
        trains: regexes of the trained parameters.
    """

    scales: tuple[int, ...] = (1, 2, 3)
    scale_weights: tuple[float, ...] = (2.0, 1.0, 1.0)
    condition_dropout: float = 0.1
    trains: tuple[str, ...] = TRAINED


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.sana` and `config.model.vae`."""
    options = from_config(SanaOptions, values, "config.stage_options")
    system.need("sana", "vae")
    scales.check(options.scales, options.scale_weights)
    views = {"ta_tok": system.config.ta_tok.encoder.image_size, "sana": system.config.sana_size}
    return Stage(
        spec=RowSpec(0, {name: View(1, side, side, 0, Modality.FEATURE) for name, side in views.items()}),
        init=lambda key: (system.init(key, ("sana", "vae", "negative", "ta_tok")), {}),
        layout=functools.partial(pictures.layout, views),
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"]["sana"])},
        phases=(Phase("sana", options.trains, functools.partial(_loss, system, options)),),
        float32=CODEBOOKS,
    )


def _loss(
    system: Any, options: SanaOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    scale_key, drop_key, index_key, noise_key = jax.random.split(key, 4)
    shown, filled = batch["pixels"]["sana"][:, 0], batch["filled"]["sana"][:, 0]
    stop = jax.lax.stop_gradient
    clean = stop(system.apply(params, "vae", shown, method="encode")) * system.config.vae.scaling
    features = stop(system.apply(params, "ta_tok", batch["pixels"]["ta_tok"][:, 0], method="features"))
    dropped = jax.random.bernoulli(drop_key, options.condition_dropout, (len(clean),))
    index = flow.draw_indices(index_key, len(clean))
    noise = jax.random.normal(noise_key, clean.shape)

    def at(scale: int, sana: Params) -> Array:
        condition = stop(system.condition_of(params, features, scale))
        negative = params["negative"]["embeds"][: condition.shape[1]].astype(condition.dtype)
        condition = jnp.where(dropped[:, None, None], negative, condition)
        shift = system.config.solving.shift
        return flow_loss(system.modules["sana"], sana, clean, condition, index, noise, shift)

    each = scales.switch(scale_key, options.scales, options.scale_weights, at, params["sana"])
    total = jnp.sum(each * filled)
    logged: Aux = {"loss/velocity": metrics.Average(total=total, count=jnp.sum(filled))}
    return total / batch["totals"]["pictures"], logged, state, carry
