"""Training of the autoregressive de-tokenizer on the codes of a frozen VQ-VAE, behind a frozen tokenizer.

No trainer of it is public; the recipe is the paper's (arXiv 2506.18898, appendix E).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from unitok_jax.backbones.ar_image import ARImage
from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.layers.applied import applied
from unitok_jax.losses.vocabulary import vocabulary_loss
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.tar import pictures, scales
from unitok_jax.systems.tar.ta_tok import CODEBOOKS

Codes = Int[Array, "batch N"]


@dataclasses.dataclass(frozen=True)
class AROptions:
    """`config.stage_options` of stage ``ar``.

    Attributes:
        scales, scale_weights: pool scales of the condition and how often each is drawn, once a micro-batch.
        condition_dropout: share of the pictures whose condition is zeros, which is what guidance compares with.
    """

    scales: tuple[int, ...] = (1, 2, 3)
    scale_weights: tuple[float, ...] = (2.0, 1.0, 1.0)
    condition_dropout: float = 0.1


def code_loss(
    model: ARImage,
    params: Params,
    condition: Float[Array, "batch T C"],
    codes: Codes,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch N"], Bool[Array, "batch N"]]:
    """Negative log-likelihood of every code, and whether the likeliest one is right; dropout only with a key."""
    rngs = None if key is None else {"dropout": key}
    hidden, _ = applied(model, params, condition, codes, deterministic=key is None, rngs=rngs)
    rows = hidden.reshape(-1, hidden.shape[-1])
    every = jnp.ones(len(rows), jnp.float32)
    found = vocabulary_loss(rows, params["head"]["kernel"], codes.reshape(-1), every, model.config.codes)
    return found.nll.reshape(codes.shape), found.correct.reshape(codes.shape) > 0


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.ar` and `config.model.vq`."""
    options = from_config(AROptions, values, "config.stage_options")
    system.need("ar", "vq")
    scales.check(options.scales, options.scale_weights)
    config = system.config
    views = {"ta_tok": config.ta_tok.encoder.image_size, "vq": config.ar_side}
    trains = "^ar/(?!positions)" if config.ar.fixed_positions else "^ar/"
    return Stage(
        spec=RowSpec(0, {name: View(1, side, side, 0, Modality.FEATURE) for name, side in views.items()}),
        init=lambda key: (system.init(key, ("ar", "vq", "ta_tok")), {}),
        layout=functools.partial(pictures.layout, views),
        counts=lambda batch: {"codes": jnp.sum(batch["filled"]["vq"]) * config.ar.tokens},
        phases=(Phase("ar", (trains,), functools.partial(_loss, system, options)),),
        float32=CODEBOOKS,
    )


def _loss(
    system: Any, options: AROptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    scale_key, drop_key, model_key = jax.random.split(key, 3)
    filled = batch["filled"]["vq"][:, 0]
    codes = jax.lax.stop_gradient(system.picture_codes(params, batch["pixels"]["vq"][:, 0]))
    features = jax.lax.stop_gradient(system.apply(params, "ta_tok", batch["pixels"]["ta_tok"][:, 0], method="features"))
    kept = ~jax.random.bernoulli(drop_key, options.condition_dropout, (len(codes),))

    def at(scale: int, ar: Params) -> tuple[Array, Array]:
        condition = jax.lax.stop_gradient(system.condition_of(params, features, scale)) * kept[:, None, None]
        return code_loss(system.modules["ar"], ar, condition, codes, model_key)

    nll, right = scales.switch(scale_key, options.scales, options.scale_weights, at, params["ar"])
    sums = {"loss/codes": (nll * filled[:, None]).sum(), "accuracy/codes": (right * filled[:, None]).sum()}
    count = filled.sum() * codes.shape[1]
    logged: Aux = {name: metrics.Average(total=total, count=count) for name, total in sums.items()}
    return sums["loss/codes"] / batch["totals"]["codes"], logged, state, carry
