"""Training of the binary tokenizer: reconstruction, LPIPS, adversary, entropies, distillation and prior.

Source: arXiv 2602.14178, section 3, on WeTok's objective (arXiv 2508.05599); specification, sections 4 to 6. Several
sizes of picture are trained together in every step, each with its own shapes (the paper's second stage).
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Array, Float, Int, Num

from unitok_jax.backbones import binary_vae, bitdance, lpips, pool_heads, siglip, vgg16
from unitok_jax.backbones.pool_heads import PoolHead
from unitok_jax.backbones.siglip import SiglipVision
from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.losses.adversarial import attach, enlarged, with_cotangent
from unitok_jax.parallel.rules import under
from unitok_jax.quantizers import binary, nearest
from unitok_jax.settings import from_config
from unitok_jax.systems import adversary
from unitok_jax.systems.adversary import LastLayer
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.uniwetok.images import cover
from unitok_jax.systems.uniwetok.semantics import disagreement, prior_loss
from unitok_jax.systems.uniwetok.tokenizer_options import TokenizerOptions

SHARDING = (
    *under("vit", siglip.SHARDING),
    *under("pools", pool_heads.SHARDING),
    *bitdance.sharding("prior"),
    *under("vgg", vgg16.SHARDING),
    *under("lpips", lpips.SHARDING),
    *adversary.SHARDING,
)
SIDES = ("pre", "post")  # of the quantisation


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options.

    Raises:
        UserError: for options that do not fit the model.
    """
    options = from_config(TokenizerOptions, values, "config.stage_options")
    views = {_name(size): View(1, *size) for size in _sizes(system, options)}
    _check(system, options)
    phases = (Phase("tokenizer", options.trains, functools.partial(_generator, system, options), _settle(options)),)
    if options.adversary:
        loss = functools.partial(_discriminator, options.adversary)
        phases += (Phase(adversary.PART, (f"^{adversary.PART}/",), loss, _count_step),)
    return Stage(
        spec=RowSpec(0, views),
        init=functools.partial(_init, system, options),
        layout=functools.partial(_layout, _sizes(system, options)),
        counts=lambda batch: {"pictures": functools.reduce(jnp.add, map(jnp.sum, batch["filled"].values()))},
        phases=phases,
        splittable=not options.couples,
    )


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _sizes(system: Any, options: TokenizerOptions) -> tuple[tuple[int, int], ...]:
    side = system.config.image_size
    return options.sizes or ((side, side),)


def _check(system: Any, options: TokenizerOptions) -> None:
    vae, sizes = system.config.vae, _sizes(system, options)
    for size in sizes:
        vae.check_size(*size)
    if options.prior is None:
        return
    network = options.prior.network
    if network.channels != vae.z_channels or network.classes:
        raise UserError(f"stage_options.prior.network: needs channels {vae.z_channels} (the bits) and classes 0")
    grids = [(height // vae.factor, width // vae.factor) for height, width in sizes]
    if network.positions == "learned" and grids != [tuple(network.grid)]:
        raise UserError(
            f"stage_options.prior.network.grid: {network.grid}, but the pictures have {grids} tokens; set it, or, for "
            "several sizes, positions to sincos"
        )


def _init(system: Any, options: TokenizerOptions, key: jax.Array) -> tuple[Params, State]:
    keys = [jax.random.fold_in(key, 1000 + i) for i in range(5)]
    params = system.init(key, ("vae",))
    state: State = {"step": jnp.zeros((), jnp.int32)}
    if options.distill:
        teacher, tokens = options.distill.teacher, jnp.zeros((1, 4, system.config.vae.z_channels))
        picture = jnp.zeros((1, teacher.image_size, teacher.image_size, 3))
        params["vit"] = SiglipVision(teacher).init(keys[0], picture)["params"]
        pool = PoolHead(options.distill.pool)
        params["pools"] = {side: pool.init(k, tokens)["params"] for side, k in zip(SIDES, keys[1:3], strict=True)}
    if options.prior:
        params["prior"] = bitdance.init_bitdance(options.prior.network, keys[3])
    if options.perceptual:
        params |= lpips.init_lpips(keys[4], options.vgg_widths)
    if options.adversary:
        made = adversary.init_adversary(options.adversary, jax.random.fold_in(key, 1005))
        params[adversary.PART], state["adversary"] = made
    return params, state


def _layout(sizes: tuple[tuple[int, int], ...], example: Example, rng: np.random.Generator) -> ExampleRow:
    """A picture, cropped at random to each size."""
    if len(example.images) != 1:
        reason = "image symbols do not match the images"
        raise BadExample(reason, f"{example.id}: expected one, has {len(example.images)}")
    none = np.zeros(0, np.int32)
    views = {_name(size): [cover(example.images[0], *size, rng)] for size in sizes}
    return ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, views)


def _generator(
    system: Any, options: TokenizerOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    loss, logged = jnp.zeros(()), {}
    for number, view in enumerate(batch["pixels"]):
        pictures, kept = _pictures(batch, view)
        one = functools.partial(_one_size, system, options, params, batch["totals"]["pictures"])
        value, aux, state, written = one(state, pictures, kept, jax.random.fold_in(key, number))
        loss, carry = loss + value, {**carry, f"written/{view}": written}
        several = len(batch["pixels"]) > 1
        logged |= {f"{name}/{view}" if several else name: metric for name, metric in aux.items()}
    return loss, logged, state, carry


def _one_size(
    system: Any,
    options: TokenizerOptions,
    params: Params,
    total: jax.Array,
    state: State,
    pictures: jax.Array,
    kept: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Aux, State, jax.Array]:
    """The generator's loss on the pictures of one size, its metrics, the state, and the pictures written."""
    vae = system.config.vae
    noise_key, prior_key = jax.random.split(key)
    features, _ = system.apply(params, "vae", pictures, method="encode")
    codes = binary.straight_through(features)
    noise = binary_vae.draw_noise(vae, codes, jax.random.split(noise_key, len(codes)))
    written, aux = system.apply(params, "vae", codes, noise, method="decode")
    last = LastLayer(*binary_vae.last_layer(vae, params["vae"], aux))
    loss, sums, logged, state = picture_loss(options, params, state, pictures, written, last, kept, total)
    if not options.decoder_only:
        coding = _coding(options, vae, features, kept)
        meaning, others = _meaning(options, params, pictures, features, codes, kept, total, prior_key)
        loss, sums = loss + coding_loss(options, coding, state["step"]) / total + meaning, sums | coding | others
    logged |= {f"loss/{name}": metrics.Average(total=v, count=kept.sum()) for name, v in sums.items()}
    return loss, logged | _use(vae, codes, kept), state, written


def picture_loss(
    options: TokenizerOptions,
    params: Params,
    state: State,
    pictures: Float[Array, "batch H W 3"],
    written: Float[Array, "batch H W 3"],
    last: LastLayer,
    kept: Float[Array, "batch"],
    total: Num[Array, ""],
) -> tuple[Float[Array, ""], dict[str, jax.Array], Aux, State]:
    """What WeTok's objective says of the pictures written: absolute error, LPIPS and the adversary (specification, 5).

    Args:
        options: of the stage.
        params: of the stage; LPIPS's parts and the discriminator are read.
        state: of the stage.
        pictures, written: the originals, and what the decoder made of their codes.
        last: the decoder's last layer, for adaptive weights.
        kept: 1 for pictures, 0 for padding.
        total: pictures of the global batch.

    Returns:
        The loss, the sums over the pictures by name, the adversary's metrics, and the state with the adversary's.
    """

    def rebuilt(written: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        losses = {"l1": jnp.mean(jnp.abs(written - pictures), (1, 2, 3))}
        if options.perceptual:
            losses["perceptual"] = lpips.lpips(params, written, pictures)
        sums = {name: jnp.sum(value * kept) for name, value in losses.items()}
        return sum(getattr(options, name) * value for name, value in sums.items()) / total, sums

    value, sums, pull = with_cotangent(rebuilt, written)
    logged: Aux = {}
    if options.adversary:
        judging, judged = params[adversary.PART], state["adversary"]
        term = adversary.generator_term(
            options.adversary, judging, judged, written, pull, last, state["step"], kept, total
        )
        value, pull, logged = value + term.value, pull + term.cotangent, term.logged
        state = {**state, "adversary": term.state}
    return attach(value, written, pull), sums, logged, state


def coding_loss(
    options: TokenizerOptions, sums: Mapping[str, Float[Array, ""]], step: Int[Array, ""]
) -> Float[Array, ""]:
    """Entropies and commitment, weighted; `sums` over the pictures, by name."""
    entropy = options.sample_weight * sums["token_entropy"] - options.batch_weight * sums["codebook_entropy"]
    factor = enlarged(step, options.enlarge, options.enlarge_steps) if options.enlarge else 1.0
    return factor * options.entropy * entropy + options.commitment * sums["commitment"]


def _coding(options: TokenizerOptions, vae: Any, features: Any, kept: Any) -> dict[str, jax.Array]:
    """Entropies and commitment, summed over the pictures."""
    flat = features.reshape(len(features), -1, features.shape[-1])
    token = binary.token_entropy(flat, vae.bit_groups, sum_groups=options.sum_groups).mean(1)
    book = binary.codebook_entropy(flat, vae.bit_groups, weights=kept, shards=options.entropy_shards)
    return {
        "token_entropy": jnp.sum(token * kept),
        "codebook_entropy": book * kept.sum(),
        "commitment": jnp.sum(binary.commitment_loss(flat).mean(1) * kept),
    }


def _meaning(
    options: TokenizerOptions, params: Params, pictures: Any, features: Any, codes: Any, kept: Any, total: Any, key: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Distillation and prior, weighted; and their sums over the pictures."""
    loss, sums = jnp.zeros(()), {}
    tokens = {side: x.reshape(len(x), -1, x.shape[-1]) for side, x in zip(SIDES, (features, codes), strict=True)}
    if options.distill:
        distill, teacher = options.distill, embed_teacher(options.distill.teacher, params, pictures)
        for side in SIDES:
            embedding = applied(PoolHead(distill.pool), params["pools"][side], tokens[side])
            sums[f"distill_{side}"] = jnp.sum(disagreement(embedding, teacher) * kept)
            loss += distill.weight * getattr(distill, side) * sums[f"distill_{side}"] / total
    if options.prior:
        prior, shape = options.prior, tokens["post"].shape
        keys = jax.random.split(key)
        t, noise = jax.random.uniform(keys[0], shape[:2]), jax.random.normal(keys[1], shape)
        grid = codes.shape[1:3]
        error, _ = prior_loss(
            prior.network, params["prior"], tokens["post"], t, noise, grid, stop_target=prior.stop_target
        )
        sums["prior"] = jnp.sum(error * kept)
        loss += prior.weight * sums["prior"] / total
    return loss, sums


def embed_teacher(
    teacher: siglip.SiglipConfig, params: Params, pictures: Float[Array, "batch H W 3"]
) -> Float[Array, "batch C"]:
    """The frozen teacher's embeddings of pictures in [-1, 1], brought to its own size (bicubic, antialiased)."""
    shape = (len(pictures), teacher.image_size, teacher.image_size, 3)
    resized = pictures if pictures.shape == shape else jax.image.resize(pictures, shape, "cubic")
    return jax.lax.stop_gradient(applied(SiglipVision(teacher), params["vit"], resized)[1]["pooled"])


def _use(vae: Any, codes: jax.Array, kept: jax.Array) -> Aux:
    counts = binary.histogram(binary.to_indices(codes, vae.bit_groups), 1 << vae.bits, kept > 0)
    return nearest.code_metrics(counts, "codebook")


def _discriminator(
    settings: adversary.AdversarySettings, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    loss, logged = jnp.zeros(()), {}
    for view in batch["pixels"]:
        pictures, kept = _pictures(batch, view)
        value, aux, judged = adversary.discriminator_loss(
            settings,
            params[adversary.PART],
            state["adversary"],
            pictures,
            carry[f"written/{view}"],
            state["step"],
            kept,
            batch["totals"]["pictures"],
        )
        loss, state = loss + value, {**state, "adversary": judged}
        several = len(batch["pixels"]) > 1
        logged |= {f"{name}/{view}" if several else name: metric for name, metric in aux.items()}
    return loss, logged, state, carry


def _pictures(batch: Batch, view: str) -> tuple[jax.Array, jax.Array]:
    """The pictures of a view, [B, H, W, 3], and 1 for each that is there, 0 for padding."""
    return batch["pixels"][view][:, 0], batch["filled"][view][:, 0].astype(jnp.float32)


def _settle(options: TokenizerOptions) -> Any:
    """The step ends with the generator's phase unless a discriminator follows."""
    return None if options.adversary else _count_step


def _count_step(params: Params, state: State, key: jax.Array, carry: Carry) -> tuple[Params, State]:
    del key, carry
    return params, {**state, "step": state["step"] + 1}
