"""The learnt positions of each row, gathered: heads and their losses run on these alone.

A row has room for a fixed number of them, which packing keeps to (`RowSpec.loss_positions`, `visual_positions`), so
that padding, questions and features cost a head nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from clu import metrics
from jaxtyping import Array, Bool, Float, Int, Shaped

from unitok_jax.data.example import Task
from unitok_jax.losses.vocabulary import LossSums, sum_by_group, vocabulary_loss
from unitok_jax.parallel.mesh import pin_positions
from unitok_jax.systems.base import Aux, Batch, Params

TASKS = {Task.TEXT: "text", Task.UNDERSTANDING: "understanding", Task.GENERATION: "generation"}


class Places(NamedTuple):
    """Where in its row each gathered position stands.

    Attributes:
        at: int32 [batch, n], no position twice.
        used: whether it is one of those wanted; the others fill the room.
    """

    at: Int[Array, "batch n"]
    used: Bool[Array, "batch n"]

    def pick(self, x: Shaped[Array, "batch seq *rest"]) -> Shaped[Array, "batch n *rest"]:
        """What stands there, each row's from its own."""
        return jax.vmap(lambda row, at: row.at[at].get(unique_indices=True, mode="promise_in_bounds"))(x, self.at)


def find(wanted: Bool[Array, "batch seq"], room: int) -> Places:
    """The first `room` wanted positions of each row, in order, and after them others until the room is full."""
    at = jnp.argsort(~wanted, axis=1, stable=True)[:, :room]
    return Places(at, jnp.take_along_axis(wanted, at, axis=1))


def draws(batch: Batch) -> Bool[Array, "batch seq"]:
    """Positions that learn to draw: without an id to predict."""
    return (batch["loss_weights"] > 0) & (batch["targets"] < 0)


def score_words(system: Any, params: Params, hidden: Float[Array, "batch seq D"], batch: Batch, room: int) -> LossSums:
    """What the vocabulary's softmax says of the targets that are ids, added up by task.

    Args:
        system: has `head` and `config.lm`.
        params: of the system.
        hidden: final hidden states.
        batch: with ``targets``, of which those below 0 are other heads', ``loss_weights`` and ``task``.
        room: learnt ids of a row at most; 0: all positions are scored, learnt or not.
    """
    weights = jnp.where(batch["targets"] < 0, 0, batch["loss_weights"])
    fields = hidden, batch["targets"], weights, batch["task"]
    if 0 < room < weights.shape[1]:
        places = pin_positions(find(weights != 0, room))
        fields = pin_positions(tuple(map(places.pick, fields)))
    hidden, targets, weights, task = fields
    scored = vocabulary_loss(hidden, system.head(params), targets, weights, system.config.lm.vocab_size)
    return sum_by_group(scored, weights, task, len(Task))


def by_task(sums: LossSums) -> Aux:
    """Loss and accuracy of each task apart."""
    aux = {}
    for task, name in TASKS.items():
        count = sums.count[task]
        aux[f"loss/{name}"] = metrics.Average(total=sums.nll[task], count=count)
        aux[f"accuracy/{name}"] = metrics.Average(total=sums.correct[task], count=count)
    return aux
