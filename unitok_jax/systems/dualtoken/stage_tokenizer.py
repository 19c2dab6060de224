"""Training of DualToken's tokenizer (specification, section 7): its stages 0, 1 and 2, the paper's recipe and the
variants of the paper's Table 3 are settings of it.

The codebooks move while the loss is computed and are handed to the parameters after the step, by `settle`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Array, Float, Num

from unitok_jax.backbones import lpips, vgg16
from unitok_jax.backbones.discriminators import DiscriminatorSettings
from unitok_jax.backbones.taming_vae import last_layer
from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.layers.applied import applied
from unitok_jax.losses.adversarial import attach, with_cotangent
from unitok_jax.quantizers import nearest
from unitok_jax.settings import from_config
from unitok_jax.systems import adversary
from unitok_jax.systems.adversary import AdversarySettings, LastLayer
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.dualtoken.images import view
from unitok_jax.systems.dualtoken.tokenizer import Draws, Encoded

VIEW = "tower"
PerPicture = Float[Array, "batch"]
AnyFeatures = Float[Array, "batch length channels"]

RESNET = DiscriminatorSettings("resnet")  # the released discriminator
ADVERSARY = AdversarySettings(RESNET, "leaky_hinge", weight=0.75, lowest=0.3, highest=10.0)
TRAINS = ("^vit/", "^prequant/(?!.*attention/k/bias)", "^postquant/(?!.*attention/k/bias)", "^decoder/")


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """`config.stage_options` of stage ``tokenizer``; the weights are those of the released stage 1.

    Attributes:
        semantic, semantic_cosine: weights of squared error and negative cosine between the features behind the
            semantic quantizer and those of the frozen tower before its last layer.
        semantic_on: what is compared: ``features``, or ``tap``, the tower's own before they are quantised (as the
            released snapshot of March 2026 trained).
        pooler, pooler_cosine: the same of the pooled features.
        commit_pix, commit_sem: weights of the commitment losses.
        l2: weight of the squared error of pixels.
        perceptual: weight of LPIPS, whose parts ``vgg`` and ``lpips`` come from published files.
        adversary: the discriminator and how it weighs; None trains without (stages 0 and 2).
        discriminator_weight: of the discriminator's own loss (1 in the release's first adversarial epoch, then 0.75;
            to Adam it makes no difference but through its epsilon).
        discriminator_restart: steps after which the discriminator's parameters start anew; 0 never. Its schedule can
            do so too (`period`); its moments go on.
        learns: the branches whose codebooks move (stage 2: ``sem`` alone).
        trains: regexes of the trained parameters. The keys' zero bias in the projections is never among them.
        crop: random crops in training, as released; else the centre.
        vgg_widths: channels of LPIPS's network; others than the published ones for tests alone.
    """

    semantic: float = 5.0
    semantic_cosine: float = 5.0
    semantic_on: Literal["features", "tap"] = "features"
    pooler: float = 1.0
    pooler_cosine: float = 1.0
    commit_pix: float = 5.0
    commit_sem: float = 5.0
    l2: float = 5.0
    perceptual: float = 1.0
    adversary: AdversarySettings | None = None
    discriminator_weight: float = 0.75
    discriminator_restart: int = 0
    learns: tuple[str, ...] = ("pix", "sem")
    trains: tuple[str, ...] = TRAINS
    crop: bool = True
    vgg_widths: tuple[int, ...] = vgg16.WIDTHS

    @property
    def compares(self) -> bool:
        """Whether the frozen tower is needed."""
        return any((self.semantic, self.semantic_cosine, self.pooler, self.pooler_cosine))

    @property
    def draws(self) -> bool:
        """Whether pictures are decoded."""
        return any((self.l2, self.perceptual, self.adversary))


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options."""
    options = from_config(TokenizerOptions, values, "config.stage_options")
    side, (rows, columns) = system.config.vit.image_size, system.config.grid
    learn, hold = (functools.partial(_generator, system, options, train) for train in (True, False))
    phases = [Phase("tokenizer", options.trains, learn, functools.partial(_settle, options), hold)]
    if options.adversary:
        judge = functools.partial(_discriminator, options, options.adversary)
        restart = functools.partial(_restart, options)
        phases.append(Phase(adversary.PART, (f"^{adversary.PART}/",), judge, restart))
    return Stage(
        spec=RowSpec(0, {VIEW: View(1, side, side, rows * columns, Modality.CODE)}),
        init=functools.partial(_init, system, options),
        layout=functools.partial(_layout, system, options),
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"][VIEW])},
        phases=tuple(phases),
        splittable=False,
        float32=("^codebooks/",),
    )


def _init(system: Any, options: TokenizerOptions, key: jax.Array) -> tuple[Params, State]:
    params = system.init(key, (*system.tokenizer_parts, *(("teacher",) if options.compares else ())))
    state: State = {"step": jnp.zeros((), jnp.int32)}
    if options.perceptual:
        params |= lpips.init_lpips(jax.random.fold_in(key, 1000), options.vgg_widths)
    if options.adversary:
        made = adversary.init_adversary(options.adversary, jax.random.fold_in(key, 1001))
        params[adversary.PART], state["adversary"] = made
    return params, state


def _layout(system: Any, options: TokenizerOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    """A picture alone."""
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    none = np.zeros(0, np.int32)
    picture = view(example.images[0], system.config.vit.image_size, rng if options.crop else None)
    pictures = {VIEW: [picture]}
    return ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, pictures)


class Written(NamedTuple):
    """What a forward pass of the training gives.

    Attributes:
        encoded: the picture's features and codes.
        picture: what was written, [B, H, W, 3]; the input where nothing is drawn.
        losses: by name, [B], none weighted.
        aux: the decoder's intermediates.
    """

    encoded: Encoded
    picture: Float[Array, "batch H W 3"]
    losses: dict[str, PerPicture]
    aux: dict[str, Any]


def forward(
    system: Any,
    options: TokenizerOptions,
    params: Params,
    pictures: Float[Array, "batch H W 3"],
    kept: PerPicture,
    draws: Draws,
) -> Written:
    """Encodes and decodes pictures; the branches named in `draws` learn, from those `kept`."""
    encoded = system.tokenizer.encode(params, pictures, draws, kept=kept)
    losses = {f"commit_{name}": encoded.quantized[name].commitment for name in system.config.branches}
    if options.compares:
        losses |= semantic_losses(options, encoded, teach(system, params["teacher"], pictures))
    if not options.draws:
        return Written(encoded, pictures, losses, {})
    picture, aux = system.tokenizer.decode(params, encoded.quantized["pix"].latents)
    return Written(encoded, picture, losses, aux)


def teach(system: Any, teacher: Params, pictures: Float[Array, "batch H W 3"]) -> dict[str, Any]:
    """What the frozen tower says: ``features`` before its last layer, ``last`` after it, ``pooled``."""
    vit = system.config.tower
    name = "span_{}_{}".format(*vit.spans[-2]) if len(vit.spans) > 1 else None
    _, aux = applied(system.tokenizer.tower, teacher, pictures)
    before = aux["embeddings"] if name is None else aux["spans"][name]
    last = aux["spans"]["span_{}_{}".format(*vit.spans[-1])]
    return jax.lax.stop_gradient({"features": before, "last": last, "pooled": aux["pooled"]})


def semantic_losses(options: TokenizerOptions, encoded: Encoded, taught: Mapping[str, Any]) -> dict[str, PerPicture]:
    """Squared errors and negative cosines, mean over tokens and channels, of features, last layer and pooled output.

    Those of the last layer are logged and never weighted, as in the release.
    """
    ours = encoded.features if options.semantic_on == "features" else encoded.tap
    pairs = {
        "semantic": (ours, taught["features"]),
        "last": (encoded.last, taught["last"]),
        "pooler": (encoded.pooled[:, None], taught["pooled"][:, None]),
    }
    losses = {}
    for name, (a, b) in pairs.items():
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        losses[name] = jnp.square(a - b).mean((1, 2))
        losses[f"{name}_cosine"] = -_cosines(a, b).mean(1)
    return losses


def _cosines(a: AnyFeatures, b: AnyFeatures) -> Float[Array, "batch length"]:
    lengths = [jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1), 1e-16)) for x in (a, b)]
    return (a * b).sum(-1) / (lengths[0] * lengths[1])


def _generator(
    system: Any,
    options: TokenizerOptions,
    train: bool,
    params: Params,
    state: State,
    batch: Batch,
    key: jax.Array,
    carry: Carry,
) -> tuple[jax.Array, Aux, State, Carry]:
    pictures, kept = _pictures(batch)
    learns = tuple(name for name in system.config.branches if name in options.learns) if train else ()
    draws = system.tokenizer.draw(key, len(pictures), learns)
    loss, aux, state, written = objective(system, options, params, state, pictures, kept, batch["totals"], draws)
    return loss, aux, state, {**carry, "written": written.picture, "books": written.encoded.books}


def objective(
    system: Any,
    options: TokenizerOptions,
    params: Params,
    state: State,
    pictures: Float[Array, "batch H W 3"],
    kept: PerPicture,
    totals: Mapping[str, Num[Array, ""]],
    draws: Draws,
) -> tuple[Float[Array, ""], Aux, State, Written]:
    """The tokenizer's loss, with the draws of the restarts given."""
    total = totals["pictures"]
    written = forward(system, options, params, pictures, kept, draws)
    weights = dataclasses.asdict(options)
    sums = {name: jnp.sum(value * kept) for name, value in written.losses.items()}
    loss = sum(weights[name] * value for name, value in sums.items() if weights.get(name)) / total
    logged: Aux = {}
    if options.draws:
        drawn, more, logged, state = _drawing_losses(system, options, params, state, pictures, written, kept, total)
        loss, sums = loss + drawn, {**sums, **more}
    logged |= {f"loss/{name}": metrics.Average(total=value, count=kept.sum()) for name, value in sums.items()}
    return loss, logged | code_metrics(system, written.encoded, kept), state, written


def _drawing_losses(
    system: Any,
    options: TokenizerOptions,
    params: Params,
    state: State,
    pictures: Float[Array, "batch H W 3"],
    written: Written,
    kept: PerPicture,
    total: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array], Aux, State]:
    """The losses on the picture, whose gradients meet there; the adaptive weight balances unweighted error + LPIPS."""

    def error(picture: jax.Array) -> tuple[jax.Array, None]:
        return (jnp.square(picture - pictures).mean((1, 2, 3)) * kept).sum() / total, None

    def perceived(picture: jax.Array) -> tuple[jax.Array, None]:
        return (lpips.lpips(params, picture, pictures) * kept).sum() / total, None

    value, _, pull = with_cotangent(error, written.picture)
    sums, balance, logged = {"l2": value * total}, pull, {}
    value, pull = options.l2 * value, options.l2 * pull
    if options.perceptual:
        seen, _, more = with_cotangent(perceived, written.picture)
        sums["perceptual"] = seen * total
        value, pull = value + options.perceptual * seen, pull + options.perceptual * more
        balance = balance + options.perceptual * more
    if options.adversary:
        last = LastLayer(*last_layer(system.config.decoder.decoder, params["decoder"], written.aux))
        term = adversary.generator_term(
            options.adversary,
            params[adversary.PART],
            state["adversary"],
            written.picture,
            balance,
            last,
            state["step"],
            kept,
            total,
        )
        value, pull, logged = value + term.value, pull + term.cotangent, term.logged
        state = {**state, "adversary": term.state}
    return attach(value, written.picture, pull), sums, logged, state


def code_metrics(system: Any, encoded: Encoded, kept: PerPicture) -> Aux:
    """By branch: usage of each depth's codes, perplexity and spread of the codebook (the worst of several), and, where
    it learns, the share of rows found dead in an update: these are the ones restarted."""
    logged: Aux = {}
    for name in system.config.branches:
        config, codes = system.config.quantizer(name), encoded.quantized[name].codes
        codes = jnp.where(kept[:, None, None, None] > 0, codes, config.size)  # beyond the end: not counted
        counts = [nearest.histogram(codes[..., depth], config.size) for depth in range(config.depth)]
        logged |= {f"codebook/{name}/usage_{depth}": nearest.CodeUsage(one) for depth, one in enumerate(counts)}
        books = functools.reduce(jnp.add, counts)[None] if config.shared else jnp.stack(counts)
        logged |= nearest.code_metrics(books, f"codebook/{name}")
        if name in encoded.dead:
            logged[f"codebook/{name}/dead"] = metrics.Average.from_model_output(encoded.dead[name])
    return logged


def _discriminator(
    options: TokenizerOptions,
    settings: adversary.AdversarySettings,
    params: Params,
    state: State,
    batch: Batch,
    key: jax.Array,
    carry: Carry,
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    pictures, kept = _pictures(batch)
    loss, logged, judged = adversary.discriminator_loss(
        settings,
        params[adversary.PART],
        state["adversary"],
        pictures,
        carry["written"],
        state["step"],
        kept,
        batch["totals"]["pictures"],
    )
    return options.discriminator_weight * loss, logged, {**state, "adversary": judged}, carry


def _settle(options: TokenizerOptions, params: Params, state: State, key: jax.Array, carry: Carry) -> Any:
    """Puts the moved codebooks in place; the step ends here unless a discriminator follows."""
    del key
    params = {**params, "codebooks": jax.tree.map(lambda moved: moved[0], carry["books"])}
    return params, state if options.adversary else _counted(state)


def _restart(options: TokenizerOptions, params: Params, state: State, key: jax.Array, carry: Carry) -> Any:
    """Every `discriminator_restart` steps after its start a new discriminator."""
    del carry
    settings, every = options.adversary, options.discriminator_restart
    if every and settings is not None:
        passed = state["step"] + 1 - settings.start
        due = (passed > 0) & (passed % every == 0)
        fresh, judged = adversary.init_adversary(settings, key)
        pick = functools.partial(jax.tree.map, lambda new, old: jnp.where(due, new, old))
        params = {**params, adversary.PART: pick(fresh, params[adversary.PART])}
        state = {**state, "adversary": pick(judged, state["adversary"])}
    return params, _counted(state)


def _counted(state: State) -> State:
    return {**state, "step": state["step"] + 1}


def _pictures(batch: Batch) -> tuple[jax.Array, PerPicture]:
    return batch["pixels"][VIEW][:, 0], batch["filled"][VIEW][:, 0].astype(jnp.float32)
