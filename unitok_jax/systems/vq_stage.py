"""Training of a taming VAE: reconstruction, codebook losses, LPIPS and a discriminator (VQGAN, arXiv 2012.09841).

One phase without an adversary, two with one. Systems whose pictures pass through such a tokenizer (Chameleon's VQGAN,
LlamaGen's VQ-VAE) make their stage of it with `build`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics

from unitok_jax.backbones import lpips, vgg16
from unitok_jax.backbones.taming_vae import TamingVAE, last_layer
from unitok_jax.data.rows import Modality, RowSpec, View
from unitok_jax.layers.applied import applied
from unitok_jax.layers.norms import unit_length
from unitok_jax.losses.adversarial import attach, with_cotangent
from unitok_jax.parallel.rules import under
from unitok_jax.quantizers import nearest
from unitok_jax.systems import adversary
from unitok_jax.systems.adversary import AdversarySettings, LastLayer
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State

SHARDING = (*under("vgg", vgg16.SHARDING), *under("lpips", lpips.SHARDING), *adversary.SHARDING)


@dataclasses.dataclass(frozen=True)
class VQOptions:
    """`config.stage_options` of a stage that trains a taming VAE.

    Attributes:
        l1, l2: weights of the reconstruction losses, means over pixels and channels.
        perceptual: weight of LPIPS, whose parts ``vgg`` and ``lpips`` come from published files (`config.init_from`).
        codebook: weight of the mean squared distance between latents and codes. The released model's legacy form
            (beta on the codebook's side) is ``codebook=0.25, commitment=1``.
        commitment: weight of the same on the latents' side.
        entropy: weight of LlamaGen's entropy loss, which wants every code used.
        temperature: of its soft codes.
        adversary: the discriminator and how it weighs; None trains without.
        restart_every: steps between restarts of the codes that no latent took since the last one; the first
            restart, at step 0, takes the whole codebook from latents. 0 never restarts.
        restart_until: the step after which none is restarted.
        vgg_widths: channels of LPIPS's network; others than the published ones for tests alone.
    """

    l1: float = 0.0
    l2: float = 1.0
    perceptual: float = 0.0
    codebook: float = 0.25
    commitment: float = 1.0
    entropy: float = 0.0
    temperature: float = 0.01
    adversary: AdversarySettings | None = None
    restart_every: int = 0
    restart_until: int = 0
    vgg_widths: tuple[int, ...] = vgg16.WIDTHS

    @property
    def couples(self) -> bool:
        """Whether the loss couples the pictures of a batch."""
        return self.entropy > 0 or (self.adversary is not None and self.adversary.couples)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What the stage's functions share: the network, the part and view it goes by, and the options."""

    vae: TamingVAE
    part: str
    options: VQOptions


def build(
    vae: TamingVAE,
    part: str,
    side: int,
    options: VQOptions,
    init: Callable[[jax.Array], Params],
    layout: Callable[..., Any],
) -> Stage:
    """The stage.

    Args:
        vae: the network.
        part: its name among the parameters, that of the view of its pictures, and of the generator's phase.
        side: of the pictures, in pixels.
        options: the stage's.
        init: key -> the parameters ``{part: ...}``.
        layout: see `Stage`; the row's one view is ``part``.
    """
    trained, codes = _Trained(vae, part, options), (side // vae.config.factor) ** 2
    phases = (Phase(part, (f"^{part}/",), functools.partial(_generator, trained), functools.partial(_settle, trained)),)
    if options.adversary:
        loss = functools.partial(_discriminator, trained, options.adversary)
        phases += (Phase(adversary.PART, (f"^{adversary.PART}/",), loss, _count_step),)
    return Stage(
        spec=RowSpec(0, {part: View(1, side, side, codes, Modality.CODE)}),
        init=functools.partial(_init, trained, init),
        layout=layout,
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"][part])},
        phases=phases,
        splittable=not options.couples,
    )


def _init(trained: _Trained, init: Callable[[jax.Array], Params], key: jax.Array) -> tuple[Params, State]:
    options, params = trained.options, init(key)
    counts = jnp.zeros(trained.vae.config.codebook_size, jnp.int32)
    state: State = {"counts": counts, "step": jnp.zeros((), jnp.int32)}
    if options.perceptual:
        params |= lpips.init_lpips(jax.random.fold_in(key, 1000), options.vgg_widths)
    if options.adversary:
        made = adversary.init_adversary(options.adversary, jax.random.fold_in(key, 1001))
        params[adversary.PART], state["adversary"] = made
    return params, state


def _generator(
    trained: _Trained, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    options, total = trained.options, batch["totals"]["pictures"]
    pictures, kept = _pictures(trained, batch)
    written, aux = applied(trained.vae, params[trained.part], pictures)
    quantized: nearest.Quantized = aux["quantized"]

    def rebuilt(written: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return _weighed(options, _reconstruction(options, params, pictures, written), kept, total)

    value, sums, pull = with_cotangent(rebuilt, written)
    logged: Aux = {}
    if options.adversary:
        last = LastLayer(*last_layer(trained.vae.config, params[trained.part], aux))
        judging, judged = params[adversary.PART], state["adversary"]
        term = adversary.generator_term(
            options.adversary, judging, judged, written, pull, last, state["step"], kept, total
        )
        value, pull, logged = value + term.value, pull + term.cotangent, term.logged
        state = {**state, "adversary": term.state}
    coding, code_sums = _weighed(options, _coding(trained, params, quantized), kept, total)
    loss = attach(value, written, pull) + coding

    counts = nearest.histogram(quantized.codes, trained.vae.config.codebook_size)
    averages = {name: metrics.Average(total=v, count=kept.sum()) for name, v in {**sums, **code_sums}.items()}
    logged |= {f"loss/{name}": average for name, average in averages.items()}
    logged |= nearest.code_metrics(counts, "codebook")
    state = {**state, "counts": state["counts"] + counts}
    return loss, logged, state, {**carry, "latents": quantized.source, "written": written}


def _discriminator(
    trained: _Trained,
    settings: adversary.AdversarySettings,
    params: Params,
    state: State,
    batch: Batch,
    key: jax.Array,
    carry: Carry,
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    total = batch["totals"]["pictures"]
    pictures, kept = _pictures(trained, batch)
    judging, judged = params[adversary.PART], state["adversary"]
    loss, logged, judged = adversary.discriminator_loss(
        settings, judging, judged, pictures, carry["written"], state["step"], kept, total
    )
    return loss, logged, {**state, "adversary": judged}, carry


def _pictures(trained: _Trained, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The pictures, [B, H, W, 3], and 1 for each that is there, 0 for padding."""
    return batch["pixels"][trained.part][:, 0], batch["filled"][trained.part][:, 0].astype(jnp.float32)


def _reconstruction(
    options: VQOptions, params: Params, pictures: jax.Array, written: jax.Array
) -> dict[str, jax.Array]:
    """The losses on the picture, by name, [B]; each has a weight of its name among the options."""
    error = written - pictures
    losses = {"l1": jnp.mean(jnp.abs(error), (1, 2, 3)), "l2": jnp.mean(jnp.square(error), (1, 2, 3))}
    if options.perceptual:
        losses["perceptual"] = lpips.lpips(params, written, pictures)
    return losses


def _coding(trained: _Trained, params: Params, quantized: nearest.Quantized) -> dict[str, jax.Array]:
    """The losses on latents and codes, by name, [B]."""
    options = trained.options
    losses = {
        "codebook": jnp.mean(nearest.codebook_loss(quantized), (1, 2)),
        "commitment": jnp.mean(nearest.commitment_loss(quantized), (1, 2)),
    }
    if options.entropy:
        # One number for all latents; given to every picture, it adds up to itself.
        book = params[trained.part]["codebook"]["embedding"]
        rows = unit_length(book) if trained.vae.config.l2_norm else book
        entropy = nearest.entropy_loss(quantized.source, rows, temperature=options.temperature)
        losses["entropy"] = jnp.broadcast_to(entropy, losses["codebook"].shape)
    return losses


def _weighed(
    options: VQOptions, losses: dict[str, jax.Array], kept: jax.Array, total: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The losses weighted, summed over what is kept and divided by `total`; and the sum of each by itself."""
    sums = {name: jnp.sum(value * kept) for name, value in losses.items()}
    return sum(getattr(options, name) * value for name, value in sums.items()) / total, sums


def _settle(trained: _Trained, params: Params, state: State, key: jax.Array, carry: Carry) -> tuple[Params, State]:
    """After the generator moved: restarts codes; the step ends here unless a discriminator follows."""
    if trained.options.restart_every:
        params, state = _restart(trained, params, state, key, carry["latents"])
    return (params, state) if trained.options.adversary else _count_step(params, state, key, carry)


def _restart(
    trained: _Trained, params: Params, state: State, key: jax.Array, latents: jax.Array
) -> tuple[Params, State]:
    """Every `restart_every` steps moves codes without a latent onto latents of this batch."""
    options, step, counts = trained.options, state["step"], state["counts"]
    due = (step % options.restart_every == 0) & (step <= options.restart_until)
    dead = due & ((counts == 0) | (step == 0))
    book = params[trained.part]["codebook"]["embedding"]
    picks = nearest.draw_picks(key, latents.size // latents.shape[-1], len(book))
    book = nearest.replace_rows(book, dead, latents, picks)
    moved = {**params[trained.part], "codebook": {"embedding": book}}
    return {**params, trained.part: moved}, {**state, "counts": jnp.where(due, 0, counts)}


def _count_step(params: Params, state: State, key: jax.Array, carry: Carry) -> tuple[Params, State]:
    del key, carry
    return params, {**state, "step": state["step"] + 1}
