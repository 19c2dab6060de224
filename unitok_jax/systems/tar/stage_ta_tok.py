"""Training of TA-Tok: its decoder learns to give back a frozen SigLIP2's features from codes of words.

No trainer of it is public. The recipe is the paper's (arXiv 2506.18898, section 3.1 and appendix E), the codes' losses
and their weights are those of the quantiser that the released class comes from (LARP) and of the arguments stored with
the weights. Which of the teacher's layers is the target, and that it is pooled alike, is an assumption.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.layers.applied import applied
from unitok_jax.layers.norms import unit_length
from unitok_jax.quantizers import nearest
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.tar import pictures, scales
from unitok_jax.systems.tar.ta_tok import CODEBOOKS, TATok, teacher_features

TRAINED = (
    r"^ta_tok/(encode_task|decode_task_in|decode_task_out|in_linear|out_linear)/",
    r"^ta_tok/encoder/(embeddings|layers)/",
    r"^ta_tok/codebook/(kernel|bias)$",
    r"^ta_tok/decoder/(?!head/)",
)


@dataclasses.dataclass(frozen=True)
class TATokOptions:
    """`config.stage_options` of stage ``ta_tok``.

    Attributes:
        scales, scale_weights: pool scales and how often each is drawn, once a micro-batch.
        commitment, codebook: weights of the two losses of the codes; equation 3 has 1 and 1.
        draw: codes are drawn from ``softmax(cosines / temperature)``, as the released arguments say; False takes the
            best, as equation 1 does.
        trains: regexes of the trained parameters. The words are frozen; the tower's last layer, where it is not read,
            has no gradient.
    """

    scales: tuple[int, ...] = (1, 2, 3)
    scale_weights: tuple[float, ...] = (2.0, 1.0, 1.0)
    commitment: float = 0.25
    codebook: float = 1.0
    draw: bool = True
    trains: tuple[str, ...] = TRAINED


def losses(
    model: TATok,
    params: Params,
    features: Float[Array, "batch n C"],
    target: Float[Array, "batch N C"],
    scale: int,
    key: PRNGKeyArray | None = None,
    codes: Int[Array, "batch N"] | None = None,
) -> tuple[dict[str, Float[Array, "batch"]], nearest.Quantized, Float[Array, "batch N C"]]:
    """Each picture's losses at one scale.

    Args:
        model: the tokenizer.
        params: its own.
        features: of its tower, not pooled.
        target: the teacher's features, pooled.
        scale: of the pooling.
        key: draws the codes; None takes the best.
        codes: taken in the place of any search.

    Returns:
        ``{"reconstruction", "commitment", "codebook"}``, the codes, and what the decoder gives back.
    """

    def run(module: TATok) -> tuple[nearest.Quantized, Array]:
        compared = module.project(features, scale)
        quantized = module.quantize(compared, module.codebook.search(compared, key) if codes is None else codes)
        return quantized, module.decode(quantized.latents)[0]

    quantized, decoded = applied(model, params, method=run)
    cosines = (unit_length(decoded) * unit_length(target)).sum(-1)
    found = {
        "reconstruction": (1 - cosines).mean(-1),
        "commitment": nearest.commitment_loss(quantized).mean(-1),
        "codebook": nearest.codebook_loss(quantized).mean(-1),
    }
    return found, quantized, decoded


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options."""
    options = from_config(TATokOptions, values, "config.stage_options")
    scales.check(options.scales, options.scale_weights)
    side = system.config.ta_tok.encoder.image_size
    return Stage(
        spec=RowSpec(0, {"ta_tok": View(1, side, side, 0, Modality.CODE)}),
        init=lambda key: (system.init(key, ("ta_tok", "vit")), {}),
        layout=functools.partial(pictures.layout, {"ta_tok": side}),
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"]["ta_tok"])},
        phases=(Phase("ta_tok", options.trains, functools.partial(_loss, system, options)),),
        float32=CODEBOOKS,
    )


def _loss(
    system: Any, options: TATokOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    scale_key, code_key = jax.random.split(key)
    shown, filled = batch["pixels"]["ta_tok"][:, 0], batch["filled"]["ta_tok"][:, 0]
    model, config = system.modules["ta_tok"], system.config.ta_tok

    def at(scale: int, ta_tok: Params) -> tuple[dict[str, Array], Array]:
        features = applied(model, ta_tok, shown, method="features")
        target = teacher_features(system.modules["vit"], params["vit"], shown, config.layers_read, scale)
        found, quantized, _ = losses(model, ta_tok, features, target, scale, code_key if options.draw else None)
        counts = jnp.zeros(config.codebook_size, jnp.int32).at[quantized.codes].add(filled[:, None].astype(jnp.int32))
        return found, counts

    found, counts = scales.switch(scale_key, options.scales, options.scale_weights, at, params["ta_tok"])
    sums = {name: jnp.sum(value * filled) for name, value in found.items()}
    code = options.commitment * sums["commitment"] + options.codebook * sums["codebook"]
    logged: Aux = {f"loss/{name}": metrics.Average(total=v, count=jnp.sum(filled)) for name, v in sums.items()}
    logged |= nearest.code_metrics(counts, "codebook")
    return (sums["reconstruction"] + code) / batch["totals"]["pictures"], logged, state, carry
