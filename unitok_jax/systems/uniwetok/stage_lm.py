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

from unitok_jax.backbones.decoder_lm import head_kernel
from unitok_jax.backbones.flow_head import FlowHead, draw_training_noise
from unitok_jax.data.example import Example, Task
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.losses.vocabulary import LossSums, sum_by_group, vocabulary_loss
from unitok_jax.quantizers import binary
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.uniwetok import lm

_TASKS = {Task.TEXT: "text", Task.UNDERSTANDING: "understanding", Task.GENERATION: "generation"}


@dataclasses.dataclass(frozen=True)
class LMOptions:
    """`config.stage_options` of stage ``lm``; the defaults are the released config's where it has the key.

    Attributes:
        row_length: positions of a packed row.
        pack: several examples a row.
        images: pictures that a row has room for.
        trains: regexes of the trained parameters; the tokenizer is frozen.
        text_weight, picture_weight: of the two losses.
        perturb: rate of the bits flipped in what the model reads of the pictures that it draws.
        condition_dropout: share of the examples with a drawn picture that lose what was asked.
    """

    row_length: int = 16384
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
    return Stage(
        spec=RowSpec(options.row_length, {"image": view}, code_view="image", pack=options.pack, blocks=blocks),
        init=lambda key: (system.init(key, ("lm", "projector", "flow", "vae")), {}),
        layout=functools.partial(_layout, system, options),
        counts=_counts,
        phases=(Phase("lm", options.trains, functools.partial(_loss, system, options)),),
    )


def _layout(system: Any, options: LMOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    sizes = system.sizes_of(example)
    if example.task == Task.GENERATION and rng.random() < options.condition_dropout:
        row = system.layout.unconditional(example, sizes, draw=False)
    else:
        row = system.layout.conversation(example, sizes)
    return system.place_images(example, row, sizes, rng)


def _counts(batch: Batch) -> dict[str, jax.Array]:
    learnt = batch["loss_weights"] > 0
    return {
        "words": jnp.sum(learnt & (batch["targets"] >= 0)),
        "tokens": jnp.sum(learnt & (batch["targets"] < 0)),
    }


def _loss(
    system: Any, options: LMOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    config = system.config
    flip_key, head_key, dropout_key = jax.random.split(key, 3)
    signs, columns = system.row_tokens(params, batch)
    n = signs.shape[2]
    drawn = lm.gather_drawn(config, batch, signs.shape[1] * n)
    of_drawn = lm.drawn_pictures(drawn, signs.shape[1], n)[..., None, None]
    chance, share = (jax.random.uniform(k, signs.shape) for k in jax.random.split(flip_key))
    read = jnp.where(of_drawn, binary.flip(signs, chance, share, options.perturb), signs)
    words = system.apply(params, "lm", batch["tokens"], method="embed_tokens")
    embeds = lm.place_tokens(config, params, words, batch, read, columns)
    hidden = system.read_rows(params, embeds, batch, dropout_key)
    word_loss, sums = _word_loss(config, params, hidden, batch)
    condition = lm.conditions(config, hidden, drawn, columns, n)
    head = FlowHead(config.flow, config.vae.z_channels)
    noise = draw_training_noise(head, head_key, (*condition.shape[:2], config.vae.z_channels))
    losses = lm.drawing_loss(config, params, signs, condition, drawn, noise).mean(0)
    drawn_sum = jnp.sum(losses * drawn.kept.reshape(losses.shape))
    totals = {name: jnp.maximum(batch["totals"][name], 1) for name in ("words", "tokens")}
    loss = options.text_weight * word_loss / totals["words"] + options.picture_weight * drawn_sum / totals["tokens"]
    aux = _metrics(sums) | {"loss/picture": metrics.Average(total=drawn_sum, count=jnp.sum(drawn.kept))}
    return loss, aux, state, carry


def _word_loss(config: Any, params: Params, hidden: jax.Array, batch: Batch) -> tuple[jax.Array, LossSums]:
    """Summed cross-entropy of the words, and its parts by task."""
    weights = jnp.where(batch["targets"] < 0, 0, batch["loss_weights"]).reshape(-1)
    targets = jnp.maximum(batch["targets"], 0).reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    scored = vocabulary_loss(rows, head_kernel(config.lm, params["lm"]), targets, weights, config.lm.vocab_size)
    sums = sum_by_group(scored, weights, batch["task"].reshape(-1), len(Task))
    return jnp.sum(sums.nll), sums


def _metrics(sums: LossSums) -> Aux:
    """Loss and accuracy of the words of each task apart."""
    aux = {}
    for task, name in _TASKS.items():
        count = sums.count[task]
        aux[f"loss/{name}"] = metrics.Average(total=sums.nll[task], count=count)
        aux[f"accuracy/{name}"] = metrics.Average(total=sums.correct[task], count=count)
    return aux
