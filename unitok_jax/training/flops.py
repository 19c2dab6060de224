"""How many FLOPs a step's matrix products and convolutions take, counted from what JAX traced.

The formula: 2 m n k for every product of an [m, k] and a [k, n] matrix, 2 x (elements of the result) x (elements of the
kernel that each reads) for every convolution; loops times their length. Everything else (norms, softmax, optimizer) is
left out, as is usual for MFU. A *model* count has no recomputation of layers in it (`remat` off); long attention counts
the blocks that its order leaves, and the backward pass's second look at the scores.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend import core
from jax.sharding import Mesh

from unitok_jax.data import packing
from unitok_jax.parallel.chips import chip_of
from unitok_jax.parallel.mesh import MeshSettings
from unitok_jax.systems.base import Batch, Stage
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.setup import prepare

log = logging.getLogger(__name__)


def count_flops(jaxpr: core.Jaxpr) -> float:
    """The FLOPs of a jaxpr; a while loop counts one turn, a branch its dearest side."""
    return sum(_equation(equation) for equation in jaxpr.eqns)


def abstract_batch(stage: Stage, batch_size: int, codes: bool, sharding: Any = None) -> Batch:
    """The shapes and types of a stage's batch."""
    host = packing.empty(stage.spec, 1, codes)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=sharding), dict(host)
    )


def step_flops(config: TrainConfig, remat: bool = False) -> float:
    """The FLOPs of a whole train step of a recipe, all devices together; traced for a CPU, nothing is computed.

    Args:
        config: the recipe.
        remat: whether to count what is computed twice to save memory.
    """
    model = config.model if remat else without_remat(config.model)
    config = dataclasses.replace(config, model=model, mesh=MeshSettings())
    setup = prepare(config, jax.devices("cpu")[:1])
    batch = abstract_batch(setup.stage, config.batch_size, config.data_settings.codes)
    with jax.set_mesh(setup.mesh):
        traced = setup.train_step().trace(setup.abstract, batch)
    return count_flops(traced.jaxpr.jaxpr)


def ideal_seconds(config: TrainConfig, mesh: Mesh) -> float | None:
    """The least time that a step's FLOPs take on a mesh: FLOPs / (chips x peak bf16 FLOP/s of a chip).

    None where the chip's peak is not known, as on CPUs, or no CPU is there to trace for.
    """
    chip = chip_of(mesh.devices.flat[0])
    if chip is None:
        return None
    try:
        return step_flops(config) / (mesh.size * chip.flops)
    except RuntimeError as error:  # JAX_PLATFORMS leaves no CPU
        log.warning("no MFU: %s", error)
        return None


def without_remat(model: Any) -> Any:
    """A model's settings with every key ``remat`` off."""
    if isinstance(model, Mapping):
        return {key: False if key == "remat" else without_remat(value) for key, value in model.items()}
    return model


def _equation(equation: Any) -> float:
    count = _COUNTED.get(equation.primitive.name)
    if count is not None:
        return count(equation)
    return sum(map(count_flops, _inner(equation.params.values())))


def _inner(values: Any) -> list[core.Jaxpr]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _inner(value)
    return found


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    numbers = equation.params["dimension_numbers"]
    dilated = math.prod(equation.params["lhs_dilation"])  # the zeros between the inputs cost nothing
    return 2.0 * math.prod(out) * math.prod(kernel) / kernel[numbers.rhs_spec[0]] / dilated


def _scan(equation: Any) -> float:
    return equation.params["length"] * count_flops(equation.params["jaxpr"].jaxpr)


def _while(equation: Any) -> float:
    return count_flops(equation.params["body_jaxpr"].jaxpr)


def _branches(equation: Any) -> float:
    return max(count_flops(branch.jaxpr) for branch in equation.params["branches"])


def _mapped(equation: Any) -> float:
    return equation.params["mesh"].size * sum(map(count_flops, _inner([equation.params["jaxpr"]])))


_COUNTED: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "scan": _scan,
    "while": _while,
    "cond": _branches,
    "shard_map": _mapped,
}
