"""UniToken's guidance, structure mask and top-k, step by step along a fixed path."""

import jax
import jax.numpy as jnp
import numpy as np
import unitoken_lm
from harness import Mutation

from unitok_jax.sampling import filters, guidance
from unitok_jax.systems.unitoken import decoding as machine

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}  # the README's


def check(case):
    system, params = unitoken_lm.load(case)
    prompt, path, kept = case.input("prompt"), case.input("path"), case.input("kept_steps")
    how = unitoken_lm.decoding(case, max_steps=1)
    conditional, unconditional, state = unitoken_lm.replay(system, params, prompt, path, range(len(path) + 1), how)
    both = jnp.concatenate([conditional, unconditional])
    guided = guidance.guide(both, how, where=state.in_codes)
    masked = machine.scores(system.grammar, both, state, how)
    top_k = jnp.where(state.in_image, how.image.top_k, how.text.top_k)
    scores = np.asarray(filters.keep_top_k(masked, top_k))

    case.compare("has_unconditional", np.asarray(state.in_codes))
    case.compare("cond_logits", conditional[kept], **TOLERANCE)
    case.compare("uncond_logits", unconditional[kept], **TOLERANCE)
    case.compare("after_cfg", guided[kept], **TOLERANCE)
    case.compare("after_mask_keep", np.isfinite(masked)[kept])
    clear = ~_near_ties(np.asarray(masked), np.asarray(top_k))
    case.compare("after_topk_keep", np.isfinite(scores)[kept], where=clear[kept])
    case.compare("num_kept_topk", np.isfinite(scores).sum(axis=1))
    case.compare("forced_or_argmax", scores.argmax(axis=1))
    values, ids = jax.lax.top_k(jax.nn.softmax(scores / case.config["temperature"], axis=-1), 8)
    case.compare("prob_top8_values", values, **TOLERANCE)
    case.compare("prob_top8_ids", ids, where=np.asarray(values) > 0)


def _near_ties(scores, k):
    """Entries within 1e-4 of their row's k-th largest."""
    kth = -np.sort(-scores, axis=1)[np.arange(len(scores)), k - 1]
    with np.errstate(invalid="ignore"):
        return np.abs(scores - kth[:, None]) < 1e-4


MUTATIONS = {
    "logits_processors": (
        Mutation(
            "guidance from the first grid token on",
            patch=(machine.DecodeState, "in_codes", property(lambda s: s.in_image)),
        ),
        Mutation(
            "top-k without the k-th",
            patch=(filters, "keep_top_k", lambda x, k, keep=filters.keep_top_k: keep(x, k - 1)),
        ),
        Mutation("unguided", patch=(guidance, "guide", lambda logits, how, where=None: jnp.split(logits, 2)[0])),
    )
}
