"""The train state: made, abstract, and laid over the mesh."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import PRNGKeyArray

from unitok_jax.parallel.rules import Rules, follow, param_shardings
from unitok_jax.systems.base import Params, Stage, State
from unitok_jax.training import partition
from unitok_jax.training.optimizers import Optimizer, trained_paths


class TrainState(struct.PyTreeNode):
    """Everything that a step changes; all of it is checkpointed.

    Attributes:
        step: int32 [], how many steps were taken, skipped ones included.
        skipped: int32 [], how many of the latest steps in a row were skipped because a loss or gradient was not finite.
        params: all parameters; frozen ones in the compute dtype, the others float32.
        state: what the stage carries besides.
        opt_state: by phase.
        ema: moving average of the trained parameters, or empty.
    """

    step: jax.Array
    skipped: jax.Array
    params: Params
    state: State
    opt_state: dict[str, Any]
    ema: Params


Maker = Callable[[PRNGKeyArray, Params], TrainState]  # (key, loaded parts) -> the state at step 0


def state_maker(stage: Stage, optimizers: Mapping[str, Optimizer], *, compute_dtype: Any, ema: bool) -> Maker:
    """The pure function that makes a run's first state; parts in `loaded` stand in for drawn ones.

    Args:
        stage: whose `init` draws parameters.
        optimizers: one a phase.
        compute_dtype: of frozen parameters.
        ema: whether to keep a moving average.
    """
    trained = trained_paths(optimizers.values())

    def make(key: PRNGKeyArray, loaded: Params) -> TrainState:
        params, state = stage.init(key)
        moving, frozen = partition.split({**params, **loaded}, trained)
        exact, frozen = partition.split(frozen, exact_paths(frozen, stage.float32))
        moving, frozen = _cast(moving, jnp.float32), partition.merge(_cast(frozen, compute_dtype), exact)
        opt_state = {
            name: optimizer.init(partition.split(moving, optimizer.members)[0])
            for name, optimizer in optimizers.items()
        }
        average = jax.tree.map(jnp.copy, moving) if ema else {}
        return TrainState(jnp.int32(0), jnp.int32(0), partition.merge(moving, frozen), state, opt_state, average)

    return make


def exact_paths(frozen: Params, patterns: Sequence[str]) -> frozenset[str]:
    """The paths of frozen parameters that some pattern is found in; a pattern may match none."""
    return frozenset(path for path in partition.paths(frozen) if any(re.search(pattern, path) for pattern in patterns))


def abstract_state(make: Maker, rules: Rules, mesh: Mesh | AbstractMesh) -> tuple[TrainState, list[str]]:
    """The state's shapes and shardings, as `jax.ShapeDtypeStruct`; optimizer state and average follow the parameters.

    Returns:
        The abstract state, and one line for each dimension that its mesh axis does not divide.

    Raises:
        UserError: see `param_shardings`.
    """
    shapes = jax.eval_shape(lambda: make(jax.random.key(0), {}))
    places, reports = param_shardings(rules, shapes.params, mesh)
    shardings = follow(shapes, shapes.params, places, mesh)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
    return abstract, reports


def init_state(make: Maker, abstract: TrainState, key: PRNGKeyArray, loaded: Params | None = None) -> TrainState:
    """Makes the state straight in its shardings; parts in `loaded` are donated, and never drawn."""
    # It runs once: on a CPU, optimising the draws of some hundred leaves takes far longer than drawing them.
    on_cpu = next(iter(abstract.step.sharding.device_set)).platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    places = shardings_of(abstract)
    return jax.jit(make, out_shardings=places, donate_argnums=1, compiler_options=options)(key, loaded or {})


def shardings_of(abstract: Any) -> Any:
    """The shardings of a tree of abstract arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def average_params(state: TrainState) -> Params:
    """The parameters to use: the moving average where there is one."""
    return partition.merge(state.params, state.ema)


def _cast(params: Params, dtype: Any) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)
