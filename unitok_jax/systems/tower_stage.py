"""Training of a SigLIP tower on captions with the sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image
Pre-Training"), for systems that start from a released tower and runs that have none to start from."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Int

from unitok_jax.backbones.siglip_text import SiglipTextConfig
from unitok_jax.data.example import IMAGE, BadExample, Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.losses.contrastive import sigmoid_loss
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State


@dataclasses.dataclass(frozen=True)
class TowerOptions:
    """`config.stage_options` of stage ``tower``.

    Attributes:
        trains: regexes of the trained parameters.
    """

    trains: tuple[str, ...] = ("^vit/", "^text/")


def build(system: Any, name: str, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.text`.

    Args:
        system: has `config.vit`, `config.text`, `init`, `tower_picture`, `text_tokens`, `pooled` and `pooled_text`; its
            parts are ``vit`` and ``text``.
        name: of the tower's view.
        values: the options.
    """
    options = from_config(TowerOptions, values, "config.stage_options")
    if system.config.text is None:
        raise UserError("config.model.text: missing; stage tower trains the tower against a text tower")
    side, length = system.config.vit.image_size, system.config.text.max_length
    return Stage(
        spec=RowSpec(length, {name: View(1, side, side, 0, Modality.FEATURE)}),
        init=lambda key: (system.init(key, ("vit", "text")), {}),
        layout=functools.partial(_layout, system, name),
        counts=lambda batch: {"pairs": jnp.sum(batch["filled"][name])},
        phases=(Phase("tower", options.trains, functools.partial(_loss, system, name)),),
        splittable=False,
    )


def _layout(system: Any, name: str, example: Example, rng: np.random.Generator) -> ExampleRow:
    """The picture and its caption (the assistant's last text), padded to the text tower's length."""
    del rng
    if not example.turns:
        raise BadExample("missing text", f"{example.id}: the tower learns from captions, task 'image' has none")
    if len(example.images) != 1:
        raise BadExample(
            "image symbols do not match the images", f"{example.id}: expected one, has {len(example.images)}"
        )
    tokens = system.text_tokens([example.turns[-1].text.replace(IMAGE, "").strip()])[0]
    zeros = np.zeros(len(tokens), np.int32)
    views = {name: [system.tower_picture(example.images[0])]}
    return ExampleRow(tokens, zeros, zeros.astype(np.float32), zeros.astype(np.int8), zeros, example.task, views)


def padded(texts: Iterable[list[int]], text: SiglipTextConfig, pad: int) -> Int[np.ndarray, "texts length"]:
    """Ids of texts, each cut or filled up with `pad` to the text tower's length, int32."""
    length = text.max_length
    return np.array([(ids + [pad] * length)[:length] for ids in texts], np.int32)


def _loss(
    system: Any, name: str, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    del key
    images = system.pooled(params, batch["pixels"][name][:, 0])
    texts = system.pooled_text(params, batch["tokens"])
    same = jnp.all(batch["tokens"][:, None] == batch["tokens"][None], axis=-1)
    loss, accuracy = sigmoid_loss(images, texts, params["text"]["logit_scale"], params["text"]["logit_bias"], same)
    count = batch["totals"]["pairs"]
    aux = {
        "loss/contrastive": metrics.Average(total=loss * count, count=count),
        "accuracy/retrieval": metrics.Average(total=accuracy * count, count=count),
    }
    return loss, aux, state, carry
