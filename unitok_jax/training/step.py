"""The one train step: phases in order, each summed over micro-batches, jitted whole."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from clu import metrics
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from unitok_jax.errors import UserError
from unitok_jax.parallel.mesh import cut_positions, replicated
from unitok_jax.systems.base import Aux, Batch, Carry, Params, Phase, Stage, State
from unitok_jax.systems.pixels import float_pixels
from unitok_jax.training import partition
from unitok_jax.training.metrics import Largest, Sum
from unitok_jax.training.optimizers import Optimizer, moving_average
from unitok_jax.training.state import TrainState, average_params, shardings_of

EvalStep = Callable[[TrainState, Batch], Aux]


class TrainStep(Protocol):
    """``(state, batch) -> (state, aux)``, jitted."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Aux]: ...

    def trace(self, state: TrainState, batch: Batch) -> jax.stages.Traced:
        """The program alone, from arrays or their stand-ins."""


def make_train_step(
    stage: Stage,
    optimizers: Mapping[str, Optimizer],
    abstract: TrainState,
    mesh: Mesh,
    *,
    seed: int,
    accumulate: int = 1,
    ema_decay: float | None = None,
) -> TrainStep:
    """Builds ``(state, batch) -> (state, aux)``; the state is donated and comes back in its shardings.

    Every phase in turn takes the gradient with respect to its own parameters, summed over `accumulate`
    micro-batches, and moves them; the next phase sees them moved. The stage's normalisers are summed over all
    micro-batches first, so the result does not depend on the split. If any loss or gradient is not finite, the step
    leaves everything but its counters as it was.

    Args:
        stage: phases and normalisers.
        optimizers: by phase.
        abstract: `abstract_state`.
        mesh: rows lie over its batch axes.
        seed: the step's key is ``fold_in(key(seed), step)``.
        accumulate: micro-batches a step.
        ema_decay: of the moving average, where the state keeps one.

    Raises:
        UserError: if the batch must be split but the stage's loss couples its examples.
    """
    if accumulate > 1 and not stage.splittable:
        raise UserError(f"config.accumulate: {accumulate}, but the loss of this stage couples all rows; set it to 1")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Aux]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        micro = cut_positions(_split_rows(batch, accumulate), stage.spec.length, mesh)
        totals = jax.tree.map(lambda count: count.sum(0), jax.lax.map(stage.counts, micro))
        new, carries, aux, skips, finite = state, {}, {}, {}, jnp.bool_(True)
        for number, phase in enumerate(stage.phases):
            optimizer, phase_key = optimizers[phase.name], jax.random.fold_in(key, number)
            places = shardings_of(partition.split(abstract.params, optimizer.members)[0])
            sums = _sum_gradients(phase, optimizer, new, micro, totals, carries, phase_key, places)
            new, phase_aux, phase_finite = _move(optimizer, new, sums)
            if phase.settle is not None:
                settled = phase.settle(new.params, new.state, jax.random.fold_in(phase_key, accumulate), sums.carries)
                new = new.replace(params=settled[0], state=settled[1])
            aux = _join(aux, phase_aux)
            skips[f"skipped/{phase.name}"] = Sum.of(finite & ~phase_finite)
            finite, carries = finite & phase_finite, sums.carries
        if ema_decay is not None:
            moving, _ = partition.split(new.params, partition.paths(new.ema))
            new = new.replace(ema=moving_average(new.ema, moving, ema_decay))
        new = _keep_if(finite, new, state)
        skips["skipped_in_a_row"] = Largest(new.skipped)
        return new, _join(_mask(aux, finite), _amounts(stage, batch), _rates(optimizers, state), skips)

    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings_of(abstract), replicated(mesh)))


def make_eval_step(stage: Stage, mesh: Mesh, seed: int) -> EvalStep:
    """Builds ``(state, batch) -> aux``: every phase's loss and metrics, with the averaged parameters.

    A loss is a mean over what the batch's normalisers count, and the mean over batches weighs it by that count: the
    last batch of a set, filled with padding, weighs what it holds.
    """

    def eval_step(state: TrainState, batch: Batch) -> Aux:
        params, carry, aux, model_state = average_params(state), {}, {}, state.state
        totals = stage.counts(batch)
        weight = jnp.float32(sum(totals.values()))
        batch = float_pixels(batch | {"totals": totals})
        for number, phase in enumerate(stage.phases):
            key = jax.random.fold_in(jax.random.key(seed), number)
            loss_of = phase.evaluate or phase.loss
            loss, phase_aux, model_state, carry = loss_of(params, model_state, batch, key, carry)
            total = jnp.where(weight > 0, loss * weight, 0)
            aux = _join(aux, phase_aux | {f"loss/{phase.name}": metrics.Average(total=total, count=weight)})
        return aux

    return jax.jit(eval_step, out_shardings=replicated(mesh))


class _Sums(NamedTuple):
    """A phase's sums over the micro-batches; `carries` holds one carry a micro-batch."""

    loss: Float[Array, ""]
    grads: Params
    model_state: State
    aux: Aux
    carries: Carry


def _sum_gradients(
    phase: Phase,
    optimizer: Optimizer,
    state: TrainState,
    micro: Batch,
    totals: Mapping[str, Array],
    carries: Carry,
    key: PRNGKeyArray,
    places: Params,
) -> _Sums:
    trained, rest = partition.split(state.params, optimizer.members)

    def loss_of(trained: Params, model_state: State, batch: Batch, key: PRNGKeyArray, carry: Carry) -> Any:
        batch = float_pixels(batch | {"totals": totals})
        loss, *others = phase.loss(partition.merge(rest, trained), model_state, batch, key, carry)
        return loss.astype(jnp.float32), others

    def add_one(sums: Any, one: Any) -> Any:
        loss, grads, model_state = sums
        number, batch, carry = one
        (one_loss, (aux, model_state, carry)), one_grads = jax.value_and_grad(loss_of, has_aux=True)(
            trained, model_state, batch, jax.random.fold_in(key, number), carry
        )
        # Summed in the parameters' shardings, so that no device ever holds a whole gradient.
        grads = jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, grads, one_grads), places)
        return (loss + one_loss, grads, model_state), (aux, jax.lax.stop_gradient(carry))

    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained), state.state)
    count = jax.tree.leaves(micro)[0].shape[0]
    (loss, grads, model_state), (aux, carries) = _scan(add_one, zeros, (jnp.arange(count), micro, carries), count)
    return _Sums(loss, grads, model_state, {name: metric.reduce() for name, metric in aux.items()}, carries)


def _move(optimizer: Optimizer, state: TrainState, sums: _Sums) -> tuple[TrainState, Aux, Bool[Array, ""]]:
    """Applies a phase's gradient; also says whether its loss and gradient were finite."""
    name, opt_state = optimizer.name, state.opt_state
    trained, rest = partition.split(state.params, optimizer.members)
    updates, moved = optimizer.update(sums.grads, opt_state[name], trained, state.step)
    stepped: Any = optax.apply_updates(trained, updates)
    new = state.replace(
        params=partition.merge(rest, stepped),
        state=sums.model_state,
        opt_state=opt_state | {name: moved},
    )
    grad_norm = optax.tree.norm(sums.grads)
    scalars = {"loss": sums.loss, "grad_norm": grad_norm}
    aux = {f"{key}/{name}": metrics.Average.from_model_output(value) for key, value in scalars.items()}
    return new, _join(sums.aux, aux), jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)


def _keep_if(finite: Bool[Array, ""], new: TrainState, old: TrainState) -> TrainState:
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return kept.replace(step=old.step + 1, skipped=jnp.where(finite, 0, old.skipped + 1))


def _split_rows(batch: Batch, count: int) -> Batch:
    """[rows, ...] -> [count, rows / count, ...]; micro-batch i takes rows i, i + count, ..., so that
    no row changes its device."""
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)


def _scan(body: Callable[[Any, Any], Any], init: Any, xs: Any, count: int) -> Any:
    """`jax.lax.scan`, or its body alone where there is one turn: a loop would hide it from fusion."""
    if count > 1:
        return jax.lax.scan(body, init, xs)
    carry, ys = body(init, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], ys)


def _join(*parts: Aux) -> Aux:
    joined = {name: metric for part in parts for name, metric in part.items()}
    if len(joined) != sum(len(part) for part in parts):
        raise ValueError(f"two metrics of one step have the same name, among {sorted(map(sorted, parts))}")
    return joined


def _mask(aux: Aux, finite: Bool[Array, ""]) -> Aux:
    """A skipped step counts for nothing in sums and means."""
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), aux)


def _amounts(stage: Stage, batch: Batch) -> Aux:
    """What the step read: positions and pictures that are not padding; a picture read as several views counts once."""
    amounts = {"tokens": Sum.of(batch["segments"] != 0)} if "segments" in batch else {}
    if stage.spec.views:
        view = stage.spec.code_view or next(iter(stage.spec.views))
        amounts["images"] = Sum.of(batch["filled"][view])
    return amounts


def _rates(optimizers: Mapping[str, Optimizer], state: TrainState) -> Aux:
    return _join(*(optimizer.rates(state.step) for optimizer in optimizers.values()))
