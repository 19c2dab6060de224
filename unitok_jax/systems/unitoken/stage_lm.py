"""Training of the language model with tower and adapter: the paper's stages I and II are two settings of it.

Understanding and generation are mixed in one batch and share one loss (UniToken specification, sections 8 and 10).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Array, Bool

from unitok_jax.data.example import Example, Task
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config, near
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.codes import stacked, write_codes
from unitok_jax.systems.loss_positions import by_task, score_words
from unitok_jax.systems.unitoken import layout
from unitok_jax.systems.unitoken.images import Draws, vqgan_view
from unitok_jax.systems.unitoken.vocabulary import TokenIds

TARGETS = ("released", "paper")


@dataclasses.dataclass(frozen=True)
class LMOptions:
    """`config.stage_options` of stage ``lm``; the defaults are the released stage II's.

    Attributes:
        row_length: positions of a packed row.
        row_lengths: shorter lengths that a batch may have instead, where `config.data.order` is ``clustered``.
        loss_positions: positions that a row has room to learn, which is how many the softmax scores; 0 is all.
        pack: several examples a row; otherwise one, as released.
        images: images that a row has room for.
        pictures: tower pictures that a row has room for; 0 is as many as its images may need.
        trains: regexes of the trained parameters. Released: tower and adapter in stage I, the LM too in
            stage II; the tower's embeddings never, its pooling head has no gradient.
        targets: what is learnt. ``released``: whole answers, and the SEP of every image. ``paper``: the codes alone
            of an image that is drawn, the answer alone to a question.
        z_loss: weight of the mean squared logsumexp.
        answer_features: images in answers carry SEP and features behind their codes, as released.
        code_dropout, feature_dropout: the rates at which single codes are blanked and single features zeroed
            where the image is read, so that the model leans on neither stream alone (0 as released).
        condition_dropout: share of the generation examples whose row begins at BOI, which is what guidance
            compares with (0 as released).
    """

    row_length: int = 4096
    row_lengths: tuple[int, ...] = ()
    loss_positions: int = 0
    pack: bool = False
    images: int = 1
    pictures: int = 0
    trains: tuple[str, ...] = ("^vit/(?!embeddings/|head/)", "^adapter/", "^lm/")
    targets: str = "released"
    z_loss: float = 1e-5
    answer_features: bool = True
    code_dropout: float = 0.0
    feature_dropout: float = 0.0
    condition_dropout: float = 0.0

    def __post_init__(self):
        if self.targets not in TARGETS:
            raise UserError(f"config.stage_options.targets: no targets {self.targets!r}.{near(self.targets, TARGETS)}")


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options."""
    options = from_config(LMOptions, values, "config.stage_options")
    return Stage(
        spec=_spec(system.config, options),
        init=functools.partial(_init, system),
        layout=functools.partial(_layout, system, options),
        counts=lambda batch: {"supervised": jnp.sum(batch["loss_weights"] > 0)},
        phases=(Phase("lm", options.trains, functools.partial(_loss, system, options)),),
        measure=functools.partial(layout.id_count, vocabulary=system.vocabulary, shape=system.config.shape),
    )


def _spec(config: Any, options: LMOptions) -> RowSpec:
    side, shape, vit = config.image_size, config.shape, config.vit.image_size
    views = {
        "vqgan": View(options.images, side, side, shape.rows * shape.columns, Modality.CODE),
        "siglip": View(
            options.pictures or options.images * shape.most_pictures, vit, vit, shape.features, Modality.FEATURE
        ),
    }
    return RowSpec(
        options.row_length,
        views,
        code_view="vqgan",
        pack=options.pack,
        lengths=options.row_lengths,
        added=options.images * (1 + shape.most_features),
        loss_positions=options.loss_positions,
    )


def _init(system: Any, key: jax.Array) -> tuple[Params, State]:
    return system.init(key, ("lm", "vit", "adapter", "vqgan")), {}


def _layout(system: Any, options: LMOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    if example.task == Task.GENERATION and rng.random() < options.condition_dropout:
        row = unconditional_row(system, example, options)
    else:
        row = layout.conversation(example, system.vocabulary, system.config.shape, options.answer_features)
    if options.targets == "paper":
        row = _as_in_the_paper(row, system.vocabulary.ids)
    return place_images(system, example, row, options.answer_features, rng)


def _as_in_the_paper(row: ExampleRow, ids: TokenIds) -> ExampleRow:
    """Learns less of a row: the paper's section 3.3 names codes and answer texts alone."""
    if row.task == Task.GENERATION:
        kept = np.append(row.modality[1:] == Modality.CODE, False)
    else:
        kept = row.targets != ids.sep
    weights = np.where(kept, row.loss_weights, 0).astype(np.float32)
    return dataclasses.replace(row, loss_weights=weights, targets=np.where(weights > 0, row.targets, 0))


def unconditional_row(system: Any, example: Example, options: LMOptions) -> ExampleRow:
    """A generation example without its prompt: what is left from the first BOI on."""
    row = layout.conversation(example, system.vocabulary, system.config.shape, options.answer_features)
    start = int(np.argmax(row.tokens == system.vocabulary.ids.boi))
    fields = {name: getattr(row, name)[start:] for name in ("tokens", "targets", "loss_weights", "modality", "slots")}
    return dataclasses.replace(row, **fields)


def place_images(system: Any, example: Example, row: ExampleRow, answer_features: bool, rng: Draws) -> ExampleRow:
    """Adds the pictures that a row's slots point at: tower views, and the VQGAN's crops or precomputed codes."""
    config = system.config
    shown = layout.featured(example, answer_features)
    views = {"siglip": [view for i in shown for view in system.feature_views(layout.picture(example, i))]}
    if example.codes is not None:
        codes = stacked(example, (-1,), system.codebook_size) if example.codes else None
        return dataclasses.replace(row, views=views, codes=codes)
    side = config.image_size
    views["vqgan"] = [vqgan_view(image, side, side, rng) for image in example.images]
    return dataclasses.replace(row, views=views)


def with_codes(system: Any, params: Params, batch: Batch) -> Batch:
    """The batch with its codes written, encoded by the VQGAN where they did not come with the data."""
    codes = batch.get("codes")
    if codes is None:
        codes = jax.lax.stop_gradient(system.encode_image(params, {"vqgan": batch["pixels"]["vqgan"]}).codes)
    return {**write_codes(batch, codes, system.vocabulary.ids.code_offset), "codes": codes}


def _dropped(options: LMOptions, batch: Batch, key: jax.Array) -> Bool[Array, "batch seq"] | None:
    """Positions whose input is blanked: codes and features of images that are read, not of those to be drawn."""
    if not (options.code_dropout or options.feature_dropout):
        return None
    rates = jnp.array([0.0, options.feature_dropout, options.code_dropout])  # by `Modality`
    read = batch["task"] == Task.UNDERSTANDING
    return read & jax.random.bernoulli(key, rates[batch["modality"]])


def _loss(
    system: Any, options: LMOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    drop_key, lm_key = jax.random.split(key)
    batch = with_codes(system, params, batch)
    embeds = system.embed(params, {**batch, "blank": _dropped(options, batch, drop_key)})
    hidden = system.read_rows(params, embeds, batch, lm_key, options.pack)
    sums = score_words(system, params, hidden, batch, options.loss_positions)
    total = batch["totals"]["supervised"]
    ce, z = jnp.sum(sums.nll) / total, jnp.sum(sums.z) / total
    aux = by_task(sums) | {"z": metrics.Average(total=jnp.sum(sums.z), count=jnp.sum(sums.count))}
    return ce + options.z_loss * z, aux, state, carry
