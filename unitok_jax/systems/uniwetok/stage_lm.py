"""Training of the unified language model: words by cross-entropy, pictures by the diffusion head, in one step.

Source: specification, section 8.6. The normalisers are token means by modality with weights 0.01 and 1 (the weights
are the released config's; which means they apply to is not published).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from unitok_jax.data.example import Example, Task
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.quantizers import binary
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.loss_positions import by_task, draws, score_words
from unitok_jax.systems.uniwetok import lm


@dataclasses.dataclass(frozen=True)
class LMOptions:
    """`config.stage_options` of stage ``lm``; the defaults are the released config's where it has the key.

    Attributes:
        row_length: positions of a packed row.
        loss_positions: words that a row has room to learn, which is how many the softmax scores; 0 is all positions.
        visual_positions: tokens that a row has room to draw, which is how many the diffusion head scores; 0 is as many
            as its pictures have.
        pack: several examples a row.
        images: pictures that a row has room for.
        trains: regexes of the trained parameters; the tokenizer is frozen.
        text_weight, picture_weight: of the two losses.
        perturb: rate of the bits flipped in what the model reads of the pictures that it draws.
        condition_dropout: share of the examples with a drawn picture that lose what was asked.
    """

    row_length: int = 16384
    loss_positions: int = 0
    visual_positions: int = 0
    pack: bool = True
    images: int = 4
    trains: tuple[str, ...] = ("^lm/", "^projector/", "^flow/")
    text_weight: float = 0.01
    picture_weight: float = 1.0
    perturb: float = 0.1
    condition_dropout: float = 0.1


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.lm`.

    Raises:
        UserError: without a language model.
    """
    options = from_config(LMOptions, values, "config.stage_options")
    if system.config.lm is None:
        raise UserError("config.model.lm: missing; stage lm trains a language model")
    side = system.config.image_size
    view = View(options.images, side, side, system.config.tokens, Modality.CODE, system.config.vae.bit_groups)
    blocks = system.config.parallel_num > 1
    spec = RowSpec(
        options.row_length,
        {"image": view},
        code_view="image",
        pack=options.pack,
        blocks=blocks,
        loss_positions=options.loss_positions,
        visual_positions=options.visual_positions,
    )
    return Stage(
        spec=spec,
        init=lambda key: (system.init(key, ("lm", "projector", "flow", "vae")), {}),
        layout=functools.partial(_layout, system, options),
        counts=_counts,
        phases=(Phase("lm", options.trains, functools.partial(_loss, system, options)),),
    )


def _layout(system: Any, options: LMOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    sizes = system.sizes_of(example, native=False)
    if example.task == Task.GENERATION and rng.random() < options.condition_dropout:
        row = system.layout.unconditional(example, sizes, draw=False)
    else:
        row = system.layout.conversation(example, sizes)
    return system.place_images(example, row, sizes, rng)


def _counts(batch: Batch) -> dict[str, jax.Array]:
    learnt, drawn = batch["loss_weights"] > 0, draws(batch)
    return {"words": jnp.sum(learnt & ~drawn), "tokens": jnp.sum(drawn)}


def _loss(
    system: Any, options: LMOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    config = system.config
    flip_key, head_key, dropout_key = jax.random.split(key, 3)
    signs, columns = system.row_tokens(params, batch)
    n, room = signs.shape[2], signs.shape[1] * signs.shape[2]
    drawn = lm.gather_drawn(config, batch, min(options.visual_positions or room, room))
    of_drawn = lm.drawn_pictures(drawn, signs.shape[1], n)[..., None, None]
    chance, share = (jax.random.uniform(k, signs.shape) for k in jax.random.split(flip_key))
    read = jnp.where(of_drawn, binary.flip(signs, chance, share, options.perturb), signs)
    text = system.apply(params, "lm", batch["tokens"], method="embed_tokens")
    embeds = lm.place_tokens(config, params, text, batch, read, columns)
    hidden = system.read_rows(params, embeds, batch, dropout_key, options.pack)
    words = score_words(system, params, hidden, batch, options.loss_positions)
    condition = lm.conditions(config, hidden, drawn, columns, n)
    noise = lm.draw_noise(config, head_key, drawn, lm.blocks_in(config, batch, room))
    losses = lm.drawing_loss(config, params, signs, condition, drawn, noise).mean(0)
    drawn_sum = jnp.sum(losses * drawn.kept.reshape(losses.shape))
    totals = {name: jnp.maximum(batch["totals"][name], 1) for name in ("words", "tokens")}
    word_loss, drawn_loss = jnp.sum(words.nll) / totals["words"], drawn_sum / totals["tokens"]
    loss = options.text_weight * word_loss + options.picture_weight * drawn_loss
    aux = by_task(words) | {"loss/picture": metrics.Average(total=drawn_sum, count=jnp.sum(drawn.kept))}
    return loss, aux, state, carry
