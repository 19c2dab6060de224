"""Training of the language model: pretraining and fine-tuning are two mixtures of the same five tasks.

The release draws the pool scale once a micro-batch; here each picture draws its own with the same odds, so that rows of
all scales are packed into batches of one shape. The tower runs once a picture, whatever its scale.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax.data.example import IMAGE, Example, Task
from unitok_jax.data.rows import ExampleRow, Modality, RowSpec, View
from unitok_jax.errors import UserError
from unitok_jax.settings import from_config
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.codes import stacked, write_codes
from unitok_jax.systems.loss_positions import by_task, score_words
from unitok_jax.systems.tar import layout, scales
from unitok_jax.systems.tar.config import DETOKENIZERS
from unitok_jax.systems.tar.pictures import square
from unitok_jax.systems.tar.ta_tok import CODEBOOKS


@dataclasses.dataclass(frozen=True)
class LMOptions:
    """`config.stage_options` of stage ``lm``; the defaults are the release's.

    Attributes:
        row_length: positions of a packed row.
        loss_positions: positions that a row has room to learn, which is how many the softmax scores; 0 is all.
        pack: several examples a row; otherwise one, as released.
        images: pictures that a row has room for.
        scales, scale_weights: pool scales and how often each is drawn, once a picture.
        labels: ``released`` learns the assistant's whole messages, newlines and the ids around messages everywhere;
            ``answers`` learns what the assistant says and the end of its message.
        truncate: longer examples are cut off, as released; otherwise they are skipped.
        condition_dropout: share of the generation examples that lose their prompt, which is what guidance compares
            with (0 as released).
        carry: de-tokenizers (``ar``, ``sana``) whose parts the run keeps beside it, unchanged, so that it can draw.
        trains: regexes of the trained parameters; the tokenizer is frozen.
    """

    row_length: int = 2048
    loss_positions: int = 0
    pack: bool = True
    images: int = 2
    scales: tuple[int, ...] = (1, 2, 3)
    scale_weights: tuple[float, ...] = (2.0, 1.0, 1.0)
    labels: layout.Labels = "released"
    truncate: bool = True
    condition_dropout: float = 0.0
    carry: tuple[str, ...] = ()
    trains: tuple[str, ...] = ("^lm/",)


def build(system: Any, values: Mapping[str, Any]) -> Stage:
    """The stage from its options; needs `config.model.lm`."""
    options = from_config(LMOptions, values, "config.stage_options")
    system.need("lm")
    _check(system, options)
    side, shape = system.config.ta_tok.encoder.image_size, system.config.shape
    views = {"ta_tok": View(options.images, side, side, shape.outputs, Modality.CODE)}
    kept = tuple(part for name in options.carry for part in DETOKENIZERS[name])
    spec = RowSpec(
        options.row_length, views, code_view="ta_tok", pack=options.pack, loss_positions=options.loss_positions
    )
    return Stage(
        spec=spec,
        init=lambda key: (system.init(key, ("lm", "ta_tok", *kept)), {}),
        layout=functools.partial(_layout, system, options),
        counts=lambda batch: {"supervised": jnp.sum(batch["loss_weights"] > 0)},
        phases=(Phase("lm", options.trains, functools.partial(_loss, system, options)),),
        float32=CODEBOOKS,
    )


def _check(system: Any, options: LMOptions) -> None:
    scales.check(options.scales, options.scale_weights)
    unknown = [scale for scale in options.scales if scale not in system.config.scales]
    if unknown:
        raise UserError(f"config.stage_options.scales: {unknown[0]} is none of the model's {system.config.scales}")
    for name in options.carry:
        if name not in system.config.sides:
            raise UserError(f"config.stage_options.carry: no de-tokenizer {name!r} in {list(system.config.sides)}")


def _layout(system: Any, options: LMOptions, example: Example, rng: np.random.Generator) -> ExampleRow:
    odds = np.asarray(options.scale_weights) / np.sum(options.scale_weights)
    count = len(example.codes if example.codes is not None else example.images)
    drawn = [int(scale) for scale in rng.choice(options.scales, size=count, p=odds)]
    if example.task == Task.GENERATION and rng.random() < options.condition_dropout:
        example, drawn = _without_prompt(example, drawn)
    longest = options.row_length if options.truncate else None
    row = layout.conversation(example, system.vocabulary, system.config.shape, drawn, options.labels, longest)
    return place_images(system, example, row)


def _without_prompt(example: Example, drawn: list[int]) -> tuple[Example, list[int]]:
    """What users say, and the pictures that they show, left out."""
    owners = [turn.role for turn in layout.placed(example) for _ in range(turn.text.count(IMAGE))]
    kept = [i for i, role in enumerate(owners) if role == "assistant"]
    turns = tuple(dataclasses.replace(turn, text="") if turn.role == "user" else turn for turn in example.turns)
    codes = None if example.codes is None else tuple(example.codes[i] for i in kept)
    images = tuple(example.images[i] for i in kept) if example.images else ()
    return dataclasses.replace(example, turns=turns, images=images, codes=codes), [drawn[i] for i in kept]


def place_images(system: Any, example: Example, row: ExampleRow) -> ExampleRow:
    """Adds what a row's slots point at: the pictures, or their precomputed codes at all scales."""
    if example.codes is not None:
        codes = stacked(example, (-1,), system.codebook_size) if example.codes else None
        return dataclasses.replace(row, codes=codes)
    side = system.config.ta_tok.encoder.image_size
    return dataclasses.replace(row, views={"ta_tok": [square(image, side) for image in example.images]})


def with_codes(system: Any, params: Params, batch: Batch) -> Batch:
    """The batch with its codes written, encoded by the tokenizer where they did not come with the data."""
    codes = batch.get("codes")
    if codes is None:
        codes = jax.lax.stop_gradient(system.encode_image(params, batch["pixels"]).codes)
    return {**write_codes(batch, codes, system.vocabulary.ids.code_offset), "codes": codes}


def _loss(
    system: Any, options: LMOptions, params: Params, state: State, batch: Batch, key: jax.Array, carry: Carry
) -> tuple[jax.Array, Aux, State, Carry]:
    batch = with_codes(system, params, batch)
    hidden = system.read_rows(params, system.embed(params, batch), batch, key, options.pack)
    sums = score_words(system, params, hidden, batch, options.loss_positions)
    return jnp.sum(sums.nll) / batch["totals"]["supervised"], by_task(sums), state, carry
