"""Training of the VQGAN tokenizer by reconstruction. The release ships weights and no training code; this stage
is ours, its codebook losses are the released model's."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.quantizers import nearest
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.unitoken.images import vqgan_view


@dataclasses.dataclass(frozen=True)
class VQGANOptions:
    """`config.stage_options` of stage ``vqgan``.

    Attributes:
        l1, l2: weights of the reconstruction losses, means over pixels and channels.
        codebook: weight of the mean squared distance between latents and codes. The released model's legacy form
            (beta on the codebook's side) is ``codebook=0.25, commitment=1``.
        commitment: weight of the same on the latents' side.
        restart_every: steps between restarts of the codes that no latent took since the last one; the first
            restart, at step 0, takes the whole codebook from latents. 0 never restarts.
        restart_until: the step after which none is restarted.
    """

    l1: float = 0.0
    l2: float = 1.0
    codebook: float = 0.25
    commitment: float = 1.0
    restart_every: int = 0
    restart_until: int = 0


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options."""
    options = from_config(VQGANOptions, values, "config.stage_options")
    side, shape = system.config.image_size, system.config.shape
    view = View(1, side, side, shape.rows * shape.columns, Modality.CODE)
    loss, settle = functools.partial(_loss, system, options), functools.partial(_restart, options)
    return Stage(
        spec=RowSpec(0, {"vqgan": view}),
        init=functools.partial(_init, system),
        layout=functools.partial(_layout, system),
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"]["vqgan"])},
        phases=(Phase("vqgan", ("^vqgan/",), loss, settle if options.restart_every else None),),
    )


def _init(system: Any, key: jax.Array) -> tuple[Params, State]:
    counts = jnp.zeros(system.config.vqgan.codebook_size, jnp.int32)
    return system.init(key, ("vqgan",)), {"counts": counts, "step": jnp.zeros((), jnp.int32)}


def _layout(system: Any, example: Example, rng: np.random.Generator) -> ExampleRow:
    """A picture alone."""
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    none = np.zeros(0, np.int32)
    side = system.config.image_size
    views = {"vqgan": [vqgan_view(example.images[0], side, side, rng)]}
    return ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, views)


def _loss(
    system: Any, options: VQGANOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    pictures, filled = batch["pixels"]["vqgan"][:, 0], batch["filled"]["vqgan"][:, 0]
    written, aux = system.apply(params, "vqgan", pictures)
    quantized = aux["quantized"]
    error = written - pictures
    parts = {
        "l1": jnp.mean(jnp.abs(error), (1, 2, 3)),
        "l2": jnp.mean(jnp.square(error), (1, 2, 3)),
        "codebook": jnp.mean(nearest.codebook_loss(quantized), (1, 2)),
        "commitment": jnp.mean(nearest.commitment_loss(quantized), (1, 2)),
    }
    sums = {name: jnp.sum(value * filled) for name, value in parts.items()}
    loss = sum(getattr(options, name) * value for name, value in sums.items()) / batch["totals"]["pictures"]
    counts = nearest.histogram(quantized.codes, system.codebook_size)
    logged: Aux = {f"loss/{name}": metrics.Average(total=v, count=jnp.sum(filled)) for name, v in sums.items()}
    logged |= {"codebook/usage": nearest.CodeUsage(counts), "codebook/perplexity": nearest.CodePerplexity(counts)}
    state = {**state, "counts": state["counts"] + counts}
    return loss, logged, state, {**carry, "latents": quantized.source}


def _restart(options: VQGANOptions, params: Params, state: State, key: jax.Array, carry: Carry) -> tuple[Params, State]:
    """Every `restart_every` steps moves codes without a latent onto latents of this batch."""
    step, counts = state["step"], state["counts"]
    due = (step % options.restart_every == 0) & (step <= options.restart_until)
    dead = due & ((counts == 0) | (step == 0))
    book = params["vqgan"]["codebook"]["embedding"]
    latents = carry["latents"]
    picks = nearest.draw_picks(key, latents.size // latents.shape[-1], len(book))
    book = nearest.replace_rows(book, dead, latents, picks)
    vqgan = {**params["vqgan"], "codebook": {"embedding": book}}
    return {**params, "vqgan": vqgan}, {"counts": jnp.where(due, 0, counts), "step": step + 1}
