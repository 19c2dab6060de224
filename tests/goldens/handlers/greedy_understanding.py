"""UniToken reads a picture and answers: preprocessing, tower, splice, and greedy decoding by the decode loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unitoken_lm

from unitok_jax.data.example import Task
from unitok_jax.data.rows import ExampleRow, Modality
from unitok_jax.inference.decode import decode, written
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.systems.unitoken.images import siglip_view

IDS = unitoken_lm.IDS
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}  # the README's


def check(case):
    if case.config["anyres"]:
        pytest.skip("the AnyRes variant is not built yet")
    system, params = unitoken_lm.load(case)
    row = _row(case.input("prompt"), case.input("image_uint8"), system.config)
    batch = float_pixels(prompt_batch([row]))
    case.compare("pixel_values", np.moveaxis(batch["pixels"]["siglip"][0], -1, 1), **TOLERANCE)
    case.compare("vit_last_hidden_state", system.apply(params, "vit", batch["pixels"]["siglip"][0])[0], **TOLERANCE)
    embeds = system.embed(params, batch)[:, : len(row.tokens)]
    case.compare("inputs_embeds", embeds, **TOLERANCE)

    how = unitoken_lm.decoding(case, case.config["max_new_tokens"])
    ids = written(decode(system, params, batch, sample_keys(jnp.zeros(1, jnp.int32)), how))[0]
    case.compare("argmax_ids", ids)
    case.compare("generated_ids", ids[ids != IDS.end_of_turn])
    _compare_logits(case, system, params, embeds)


def _row(prompt, image, config):
    """The prompt, its codes given as ids, with SEP and features in front of EOI."""
    count = config.vit.grid**2
    end = int(np.argmax(prompt == IDS.eoi))
    tokens = np.concatenate([prompt[:end], [IDS.sep], np.zeros(count), prompt[end:]]).astype(np.int32)
    modality, slots = np.zeros_like(tokens), np.zeros_like(tokens)
    modality[end + 1 : end + 1 + count] = Modality.FEATURE
    slots[end + 1 : end + 1 + count] = np.arange(count)
    views = {"siglip": [siglip_view(image, config.vit.image_size)]}
    weights = np.zeros(len(tokens), np.float32)
    return ExampleRow(tokens, tokens, weights, modality, slots, Task.UNDERSTANDING, views)


def _compare_logits(case, system, params, embeds):
    """Along the reference's answer, without a cache."""
    answer = system.apply(params, "lm", jnp.asarray(case.expected("argmax_ids")[:-1])[None], method="embed_tokens")
    logits = unitoken_lm.predict(system, params, jnp.concatenate([embeds, answer], axis=1))[embeds.shape[1] - 1 :]
    best = jax.lax.top_k(logits, 2)[0]
    case.compare("first_step_logits", logits[0], **TOLERANCE)
    case.compare("last_step_logits", logits[-1], **TOLERANCE)
    case.compare("step_logsumexp", jax.nn.logsumexp(logits, axis=-1), **TOLERANCE)
    case.compare("top2_gap", best[:, 0] - best[:, 1], **TOLERANCE)
