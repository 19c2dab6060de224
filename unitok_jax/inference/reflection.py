"""Self-reflection: the best of several drawings, as the model judges them itself (Tar, section 4.2).

The released project has no code for it: a drawing's score is the probability of yes, against no, as the first word of
the answer to whether it shows what it was to show. The question is asked about the drawing's own codes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from unitok_jax.errors import UserError
from unitok_jax.inference import decode as loop
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.settings import Decoding
from unitok_jax.systems.base import Batch, JudgesDrawings, Params, System


def check(system: System, best_of: int) -> None:
    """Sees that a system can choose among `best_of` drawings.

    Raises:
        UserError: if it cannot, or there is none to choose from.
    """
    if best_of < 1:
        raise UserError(f"best_of: expected 1 or more, got {best_of}")
    if best_of > 1:
        _judge(system)


def _judge(system: System) -> JudgesDrawings:
    if not isinstance(system, JudgesDrawings):
        raise UserError("best_of: this system does not judge its own drawings; draw one of each prompt")
    return system


def scores(
    system: System,
    params: Params,
    drawings: Sequence[tuple[str, Int[np.ndarray, "_ _"]]],
    place: Callable[[Batch], Batch] = lambda batch: batch,
) -> Float[np.ndarray, " n"]:
    """The probability of yes, in [0, 1], for what each drawing was to show, and its codes [rows, columns].

    `place` lays the batch of questions over a mesh, where the parameters lie on one.
    """
    judge = _judge(system)
    batch = place(prompt_batch([judge.reflection(caption, codes) for caption, codes in drawings]))
    keys = sample_keys(np.zeros(len(drawings), np.int64))
    hidden = loop.prefill(system, params, batch, keys, Decoding(max_steps=1)).hidden
    logits = judge.apply(params, "lm", hidden, method="logits")[:, jnp.array(judge.yes_no)]
    return loop.to_host(jax.nn.softmax(logits.astype(jnp.float32))[:, 0])


def best(found: Sequence[float], best_of: int) -> Int[np.ndarray, " prompts"]:
    """Which drawings are kept: of every `best_of` in a row the one with the highest score, the first where equal."""
    scored = np.reshape(np.asarray(found), (-1, best_of))
    return scored.argmax(1) + np.arange(len(scored)) * best_of
