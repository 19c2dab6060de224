"""Training of the SigLIP tower on captions with the sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image
Pre-Training"). UniToken starts from a released tower; this stage serves where there is none to start from."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from unitok_jax.data.example import IMAGE, BadExample, Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.losses.contrastive import sigmoid_loss
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.unitoken.images import siglip_view


@dataclasses.dataclass(frozen=True)
class TowerOptions:
    """`config.stage_options` of stage ``tower``.

    Attributes:
        trains: regexes of the trained parameters.
    """

    trains: tuple[str, ...] = ("^vit/", "^text/")


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.text`."""
    options = from_config(TowerOptions, values, "config.stage_options")
    if system.config.text is None:
        raise UserError("config.model.text: missing; stage tower trains the tower against a text tower")
    side = system.config.vit.image_size
    return Stage(
        spec=RowSpec(system.config.text.max_length, {"siglip": View(1, side, side, 0, Modality.FEATURE)}),
        init=lambda key: (system.init(key, ("vit", "text")), {}),
        layout=functools.partial(_layout, system),
        counts=lambda batch: {"pairs": jnp.sum(batch["filled"]["siglip"])},
        phases=(Phase("tower", options.trains, functools.partial(_loss, system)),),
        splittable=False,
    )


def _layout(system: Any, example: Example, rng: np.random.Generator) -> ExampleRow:
    """The picture and its caption (the assistant's last text), padded to the text tower's length."""
    del rng
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    length, ids = system.config.text.max_length, system.vocabulary.ids
    caption = example.turns[-1].text.replace(IMAGE, "").strip()
    tokens = np.full(length, ids.pad, np.int32)
    text = system.vocabulary.encode(caption)[:length]
    tokens[: len(text)] = text
    zeros = np.zeros(length, np.int32)
    views = {"siglip": [siglip_view(example.images[0], system.config.vit.image_size)]}
    return ExampleRow(tokens, zeros, zeros.astype(np.float32), zeros.astype(np.int8), zeros, example.task, views)


def _loss(
    system: Any, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    images = system.pooled(params, batch["pixels"]["siglip"][:, 0])
    texts = system.pooled_text(params, batch["tokens"])
    same = jnp.all(batch["tokens"][:, None] == batch["tokens"][None], axis=-1)
    loss, accuracy = sigmoid_loss(images, texts, params["text"]["logit_scale"], params["text"]["logit_bias"], same)
    count = batch["totals"]["pairs"]
    aux = {
        "loss/contrastive": metrics.Average(total=loss * count, count=count),
        "accuracy/retrieval": metrics.Average(total=accuracy * count, count=count),
    }
    return loss, aux, state, carry
