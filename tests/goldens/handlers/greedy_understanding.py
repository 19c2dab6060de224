"""UniToken reads a picture and answers: preprocessing, tower, splice, and greedy decoding by the decode loop."""

import jax
import jax.numpy as jnp
import numpy as np
import unitoken_lm
from harness import Mutation, drop

from unitok_jax.data.example import Task
from unitok_jax.data.rows import ExampleRow
from unitok_jax.inference.decode import decode, written
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.systems.unitoken import layout

IDS = unitoken_lm.IDS
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}  # the README's


def check(case):
    system, params = unitoken_lm.load(case)
    assert bool(system.config.canvases) == case.config["anyres"]
    row = _row(case.input("prompt"), case.input("image_uint8"), system)
    batch = float_pixels(prompt_batch([row]))
    pictures = batch["pixels"]["siglip"][0][: len(row.views["siglip"])]
    case.compare("pixel_values", np.moveaxis(pictures, -1, 1), **TOLERANCE)
    case.compare("vit_last_hidden_state", system.apply(params, "vit", pictures)[0], **TOLERANCE)
    embeds = system.embed(params, batch)[:, : len(row.tokens)]
    case.compare("inputs_embeds", embeds, **TOLERANCE)

    how = unitoken_lm.decoding(case, case.config["max_new_tokens"])
    ids = written(decode(system, params, batch, sample_keys(jnp.zeros(1, jnp.int32)), how))[0]
    case.compare("argmax_ids", ids)
    case.compare("generated_ids", ids[ids != IDS.end_of_turn])
    _compare_logits(case, system, params, embeds)


def _row(prompt, image, system):
    """The prompt, its codes given as ids, with SEP and features in front of EOI."""
    end = int(np.argmax(prompt == IDS.eoi))
    zeros = np.zeros_like(prompt)
    features = layout.feature_part(system.config.shape.order(image), IDS)
    parts = zip((prompt[:end], zeros[:end], zeros[:end]), features, (prompt, zeros, zeros), strict=True)
    tokens, modality, slots = (np.concatenate([before, part, after[end + 1 :]]) for before, part, after in parts)
    views = {"siglip": system.feature_views(image)}
    weights = np.zeros(len(tokens), np.float32)
    return ExampleRow(tokens.astype(np.int32), tokens, weights, modality, slots, Task.UNDERSTANDING, views)


def _compare_logits(case, system, params, embeds):
    """Along the reference's answer, without a cache."""
    answer = system.apply(params, "lm", jnp.asarray(case.expected("argmax_ids")[:-1])[None], method="embed_tokens")
    logits = unitoken_lm.predict(system, params, jnp.concatenate([embeds, answer], axis=1))[embeds.shape[1] - 1 :]
    best = jax.lax.top_k(logits, 2)[0]
    case.compare("first_step_logits", logits[0], **TOLERANCE)
    case.compare("last_step_logits", logits[-1], **TOLERANCE)
    case.compare("step_logsumexp", jax.nn.logsumexp(logits, axis=-1), **TOLERANCE)
    case.compare("top2_gap", best[:, 0] - best[:, 1], **TOLERANCE)


MUTATIONS = {
    "greedy_understanding": (
        Mutation("no bias of the adapter", params=drop("adapter/fc1/bias")),
        Mutation(
            "features backwards",
            patch=(layout, "feature_part", lambda run, ids, f=layout.feature_part: f(run[::-1], ids)),
        ),
        Mutation(
            "no SEP",
            patch=(layout, "feature_part", lambda run, ids, f=layout.feature_part: tuple(x[1:] for x in f(run, ids))),
        ),
    )
}
