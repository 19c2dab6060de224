"""Training of DualToken's language model (our design, specification section 10): text by the vocabulary's softmax, each
picture's position by two depth transformers (equations 6 to 8 of the paper). The tokenizer is frozen.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unitok_jax.backbones.depth_head import DepthHead
from unitok_jax.data.example import Example, Task
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.layers.applied import applied
from unitok_jax.losses.vocabulary import VocabularyLoss, sum_by_group
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.codes import stacked
from unitok_jax.systems.dualtoken import layout
from unitok_jax.systems.dualtoken.config import HEADS
from unitok_jax.systems.dualtoken.images import view
from unitok_jax.systems.dualtoken.stage_tokenizer import VIEW
from unitok_jax.systems.loss_positions import by_task, draws, find, score_words


@dataclasses.dataclass(frozen=True)
class LMOptions:
    """`config.stage_options` of stage ``lm``.

    Attributes:
        row_length: positions of a packed row.
        loss_positions: words that a row has room to learn, which is how many the softmax scores; 0 is all positions.
        visual_positions: pictures' positions that a row has room to learn, which is how many the heads score; 0 is as
            many as its pictures have.
        pack: several examples a row; otherwise one.
        images: pictures that a row has room for.
        reduction: ``paper``: everything summed and divided by the supervised positions, a picture's position counted
            once; ``mean``: means of text, pixel and semantic losses, added (VILA-U's way).
        condition_dropout: share of the generation examples whose request is empty, which is what guidance compares
            with.
        learn_start: whether the start of a drawn picture is learnt, for models that decide to draw.
        crop: random crops of the pictures in training; else their centre.
        trains: regexes of the trained parameters.
    """

    row_length: int = 2048
    loss_positions: int = 0
    visual_positions: int = 0
    pack: bool = False
    images: int = 1
    reduction: Literal["paper", "mean"] = "paper"
    condition_dropout: float = 0.1
    learn_start: bool = False
    crop: bool = False
    trains: tuple[str, ...] = ("^lm/", "^projector/", "_head/")


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.lm`."""
    options = from_config(LMOptions, values, "config.stage_options")
    system.check_lm()
    config = system.config
    side, (rows, columns) = config.vit.image_size, config.grid
    seen = View(options.images, side, side, rows * columns, Modality.CODE, depth=config.depth)
    spec = RowSpec(
        options.row_length,
        {VIEW: seen},
        code_view=VIEW,
        pack=options.pack,
        loss_positions=options.loss_positions,
        visual_positions=options.visual_positions,
    )
    return Stage(
        spec=spec,
        init=lambda key: (system.init(key, (*system.lm_parts, *system.coder_parts)), {}),
        layout=functools.partial(_layout, system, options),
        counts=_counts,
        phases=(Phase("lm", options.trains, functools.partial(_loss, system, options)),),
        float32=("^codebooks/",),
    )


def _layout(system: Any, options: LMOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    template = dataclasses.replace(system.template, learn_start=options.learn_start)
    if example.task == Task.GENERATION and rng.random() < options.condition_dropout:
        example = layout.unasked(example)
    return place_images(system, example, layout.conversation(example, template), rng if options.crop else None)


def place_images(system: Any, example: Example, row: ExampleRow, rng: np.random.Generator | None) -> ExampleRow:
    """Adds the pictures that a row's slots point at, or their precomputed codes."""
    if example.codes is not None:
        codes = stacked(example, (-1, system.config.depth), system.codebook_size) if example.codes else None
        return dataclasses.replace(row, codes=codes)
    side = system.config.vit.image_size
    return dataclasses.replace(row, views={VIEW: [view(image, side, rng) for image in example.images]})


def _counts(batch: Batch) -> dict[str, jax.Array]:
    learnt, visual = batch["loss_weights"] > 0, draws(batch)
    return {"supervised": learnt.sum(), "text": (learnt & ~visual).sum(), "visual": visual.sum()}


class Visual(NamedTuple):
    """The supervised positions of pictures, gathered: at most so many as the rows have room for.

    Attributes:
        hidden: [n, D], the hidden states that predict them.
        codes: int32 [n, Q].
        weights: 1, or 0 where the room is not used.
    """

    hidden: Float[Array, "n width"]
    codes: Int[Array, "n depth"]
    weights: Float[Array, " n"]


def gather_visual(
    batch: Batch, hidden: Float[Array, "batch seq width"], codes: Int[Array, "*b depth"], most: int = 0
) -> Visual:
    """Picks what `Visual` holds; `codes` are [batch, images, n, Q], a row learns at most `most` (0: all it has)."""
    flat = codes.reshape(len(hidden), -1, codes.shape[-1])
    places = find(draws(batch), min(most or flat.shape[1], flat.shape[1], hidden.shape[1]))
    slots = jnp.where(places.used, places.pick(jnp.roll(batch["slots"], -1, axis=1)), 0)
    right = jnp.take_along_axis(flat, slots[..., None], axis=1)
    return Visual(
        places.pick(hidden).reshape(-1, hidden.shape[-1]),
        right.reshape(-1, flat.shape[-1]),
        places.used.reshape(-1).astype(jnp.float32),
    )


def score_codes(system: Any, params: Params, branch: str, visual: Visual, key: PRNGKeyArray | None) -> VocabularyLoss:
    """What a branch's head says of the right codes, [D * n], depth by depth; dropout only with `key`."""
    head = DepthHead(system.config.depth_head(branch))
    codes = system.tokenizer.split(visual.codes)[branch]
    rows = system.tokenizer.embed(params, branch, codes)
    own, rngs = params[HEADS[branch]], {} if key is None else {"dropout": key}
    states = applied(head, own, visual.hidden, rows, deterministic=key is None, rngs=rngs)
    return applied(head, own, states, codes, visual.weights, method="score")


def _loss(
    system: Any, options: LMOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    codes = system.codes_of(params, batch)
    keys = dict(zip(("lm", *system.config.branches), jax.random.split(key, 3), strict=False))
    hidden = system.read_rows(params, system.embed(params, {**batch, "codes": codes}), batch, keys["lm"], options.pack)
    words = score_words(system, params, hidden, batch, options.loss_positions)
    sums, aux = {"text": words}, by_task(words)
    visual = gather_visual(batch, hidden, codes, options.visual_positions)
    for branch in system.config.branches:
        scored = score_codes(system, params, branch, visual, keys[branch])
        depths = system.config.quantizer(branch).depth
        weights, nothing = jnp.tile(visual.weights, depths), jnp.zeros(len(scored.nll), jnp.int32)
        sums[branch] = said = sum_by_group(scored, weights, nothing, 1)
        aux[f"loss/{branch}"] = metrics.Average(total=said.nll[0], count=said.count[0])
        aux[f"accuracy/{branch}"] = metrics.Average(total=said.correct[0], count=said.count[0])
    return _reduced(system, options, sums, batch["totals"]), aux, state, carry


def _reduced(system: Any, options: LMOptions, sums: Mapping[str, Any], totals: Mapping[str, jax.Array]) -> jax.Array:
    losses = {name: said.nll.sum() for name, said in sums.items()}
    if options.reduction == "paper":
        return sum(losses.values()) / jnp.maximum(totals["supervised"], 1)
    counts = {branch: system.config.quantizer(branch).depth * totals["visual"] for branch in system.config.branches}
    counts["text"] = totals["text"]
    return sum(loss / jnp.maximum(counts[name], 1) for name, loss in losses.items())
