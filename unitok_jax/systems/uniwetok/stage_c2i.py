"""Training of the class-conditional generator on frozen codes (BitDance, arXiv 2602.14041; specification, 7)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics
from jaxtyping import Array, Float, Int

from unitok_jax.backbones.bitdance import BitDance, by_step, to_tokens
from unitok_jax.backbones.flow_head import FlowHead, draw_training_noise, training_loss
from unitok_jax.data.example import BadExample, Example
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.layers.applied import applied
from unitok_jax.quantizers import binary
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.codes import stacked
from unitok_jax.systems.uniwetok.images import FADE, class_view, item_seed, random_crop_share

# The recipe's parameters without weight decay, besides norms and biases; for `config.optimizer.groups`.
NO_DECAY_GROUPS = tuple(
    {"match": f"^generator/{name}", "weight_decay": 0.0} for name in ("proj_in/", "class_embedding/", "query_token")
)


@dataclasses.dataclass(frozen=True)
class C2IOptions:
    """`config.stage_options` of stage ``c2i``; the defaults are BitDance-B's.

    Attributes:
        perturb: rate of the bits flipped in what the model reads (0.05 in L and H).
        class_dropout: share of the examples without their class, which is what guidance compares with.
        random_crops: share of the pictures cropped at random, at first.
        crop_fade: the epochs between which that share falls to 0.
        crop_seed: the release's global seed; a picture's crop and flip follow from it, the epoch and the picture's
            number in its source.
        flip: mirror half of the pictures.
    """

    perturb: float = 0.1
    class_dropout: float = 0.1
    random_crops: float = 1.0
    crop_fade: tuple[int, int] = FADE
    crop_seed: int = 0
    flip: bool = True


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.generator`.

    Raises:
        UserError: without a generator.
    """
    options = from_config(C2IOptions, values, "config.stage_options")
    if system.config.generator is None:
        raise UserError("config.model.generator: missing; stage c2i trains a class-conditional generator")
    side = system.config.image_size
    view = View(1, side, side, system.config.outputs(side, side), Modality.CODE, system.config.vae.bit_groups)
    return Stage(
        spec=RowSpec(0, {"image": view}, code_view="image"),
        init=lambda key: (system.init(key, ("generator", "vae")), {}),
        layout=functools.partial(_layout, system, options),
        counts=lambda batch: {"pictures": jnp.sum(batch["filled"]["image"])},
        phases=(Phase("c2i", ("^generator/",), functools.partial(_loss, system, options)),),
    )


def _layout(system: Any, options: C2IOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    """A picture, or its codes, and its class; its draws are the release's, not `rng`'s."""
    del rng
    if example.label is None or not 0 <= example.label < system.config.generator.classes:
        raise BadExample(
            "other", f"{example.id}: label {example.label}; the model has {system.config.generator.classes}"
        )
    none = np.zeros(0, np.int32)
    row = ExampleRow(none, none, none.astype(np.float32), none.astype(np.int8), none, example.task, label=example.label)
    if example.codes is not None:
        codes = stacked(example, (-1, system.config.vae.bit_groups), system.codebook_size)
        return dataclasses.replace(row, codes=codes)
    draw = np.random.RandomState(item_seed(options.crop_seed, *example.drawn))
    share = options.random_crops * random_crop_share(example.drawn[0], options.crop_fade)
    view = class_view(example.images[0], system.config.image_size, share, draw, options.flip)
    return dataclasses.replace(row, views={"image": [view]})


def drop_labels(labels: Int[Array, "B"], draws: Float[Array, "B"], classes: int, rate: float) -> Int[Array, "B"]:
    """Labels, but "no class" where the uniform draw is below `rate` or there is none."""
    return jnp.where((draws < rate) | (labels < 0), classes, labels)


def _loss(
    system: Any, options: C2IOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    config = system.config.generator
    chance_key, share_key, label_key, head_key = jax.random.split(key, 4)
    tokens = to_tokens(config, jax.lax.stop_gradient(system.batch_codes(params, batch))[:, 0])
    chance, share = (jax.random.uniform(k, tokens.shape) for k in (chance_key, share_key))
    read = binary.flip(tokens, chance, share, options.perturb)
    draws = jax.random.uniform(label_key, batch["labels"].shape)
    labels = drop_labels(batch["labels"], draws, config.classes, options.class_dropout)
    conditions, _ = applied(BitDance(config), params["generator"], read, labels)
    head, target = FlowHead(config.head, config.channels), by_step(config, tokens)
    noise = draw_training_noise(head, head_key, target.shape)
    entries, _ = training_loss(head, params["generator"]["head"], target, by_step(config, conditions), *noise)
    by_picture = entries.reshape(config.head.repeat, len(tokens), -1).mean((0, 2))
    filled = batch["filled"]["image"][:, 0]
    total = jnp.sum(by_picture * filled)
    aux = {"loss/velocity": metrics.Average(total=total, count=jnp.sum(filled))}
    return total / batch["totals"]["pictures"], aux, state, carry
