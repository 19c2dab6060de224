"""A whole guided drawing by the decode loop, greedily, and reading it back."""

import jax
import jax.numpy as jnp
import numpy as np
import unitoken_lm
from harness import Mutation

from unitok_jax.inference.decode import decode, written
from unitok_jax.sampling import filters, guidance
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.systems.unitoken import decoding as machine

TIE = 1e-3  # README: where the two best scores are nearer than this, either may be taken
IDS = unitoken_lm.IDS


def check(case):
    system, params = unitoken_lm.load(case)
    prompt = case.input("prompt_with_prefix")
    how = unitoken_lm.decoding(case, case.config["max_new_tokens"])
    batch = unitoken_lm.padded([prompt, [IDS.boi]])
    ids = written(decode(system, params, batch, sample_keys(jnp.zeros(1, jnp.int32)), how))[0]
    expected, gap = case.expected("new_ids"), case.expected("top2_gap")
    untied = np.arange(len(expected)) < _first_tie(ids, expected, gap)
    case.compare("new_ids", _filled(ids, len(expected)), where=untied)
    if untied.all():
        _compare_reading(case, [*case.config["prefix"], *ids])
    else:
        case.skip("image_token_ids|decoded_text_ids", "the path left the reference's at a tie")
    _compare_scores(case, system, params, prompt, expected, how)


def _first_tie(ids, expected, gap):
    """The step from which on the paths may differ; all steps if none."""
    differ = np.flatnonzero(_filled(ids, len(expected)) != expected)
    return differ[0] if differ.size and gap[differ[0]] < TIE else len(expected)


def _filled(ids, length):
    return np.pad(ids, (0, length - len(ids)), constant_values=-1)


def _compare_reading(case, ids):
    text, images = machine.read_ids(ids, IDS)
    case.compare("decoded_text_ids", text)
    begin, end = ids.index(IDS.boi) + 1, ids.index(IDS.eoi)
    case.compare("image_token_ids", ids[begin:end])
    body = np.asarray(ids[begin + 2 : end]).reshape(32, 33)[:, :-1]
    np.testing.assert_array_equal(images[0], body - IDS.code_offset)


def _compare_scores(case, system, params, prompt, path, how):
    """Along the reference's own path, so that a tie cannot hide a difference."""
    conditional, unconditional, state = unitoken_lm.replay(system, params, prompt, path[:-1], range(len(path)), how)
    case.compare("cond_logsumexp", jax.nn.logsumexp(conditional, axis=-1))
    masked = machine.scores(system.grammar, jnp.concatenate([conditional, unconditional]), state, how)
    scores = np.asarray(filters.keep_top_k(masked, jnp.where(state.in_image, how.image.top_k, how.text.top_k)))
    best = np.asarray(jax.lax.top_k(scores, 2)[0])
    free = np.isfinite(best[:, 1])
    case.compare("top2_gap", np.where(free, best[:, 0] - np.where(free, best[:, 1], 0), 1e9), where=free)
    steps = case.input("selected_steps")
    shown = case.expected("selected_scores").shape[1]
    case.compare("selected_scores", np.where(np.isfinite(scores), scores, -1e30)[steps, :shown])
    shown = case.expected("selected_cond_logits_image_slice").shape[1]
    case.compare("selected_cond_logits_image_slice", conditional[steps, :shown])


MUTATIONS = {
    "t2i_cfg_greedy": (
        Mutation("unguided", patch=(guidance, "guide", lambda logits, how, where=None: jnp.split(logits, 2)[0])),
    )
}
