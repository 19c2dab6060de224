"""The programs that a plan compiles: a recipe's train step, or its prefill and decode, for chips that may be absent."""

import dataclasses
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from unitok_jax.data.example import Example, Task, Turn
from unitok_jax.errors import UserError
from unitok_jax.inference import decode as loop
from unitok_jax.inference.prompts import prompt_batch
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.parallel.mesh import MeshSettings, batch_sharding, row_sharding
from unitok_jax.sampling.draw import sample_keys
from unitok_jax.sampling.guidance import rows_per_sample
from unitok_jax.settings import from_config
from unitok_jax.systems import base
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.flops import abstract_batch, count_flops
from unitok_jax.training.setup import Setup, prepare

TRAIN_STEP = "train step"
STEPS = jax.ShapeDtypeStruct((), np.int32)  # of a decode: traced, so that any number runs the same program
PROMPT = "a red apple on a wooden table, soft morning light, photograph"


class Program(NamedTuple):
    """A program traced for its devices."""

    name: str
    traced: jax.stages.Traced


def absent_devices(topology: str, slices: int) -> Sequence[jax.Device]:
    """The devices of a TPU topology, made known by libtpu on a machine that has none.

    Raises:
        UserError: without libtpu, or if it does not know the topology.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        importlib.import_module("libtpu")
    except ImportError:
        raise UserError(
            "plan: needs libtpu, which compiles for TPUs without one; pip install 'unitok-jax[tpu]'"
        ) from None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, num_slices=slices).devices
    except Exception as error:  # libtpu raises what it likes
        raise UserError(f"--topology {topology}: libtpu does not know it ({str(error).splitlines()[0]})") from error


def without_text(config: TrainConfig) -> TrainConfig:
    """The recipe with stand-ins for files that only text needs and that are not there."""
    return dataclasses.replace(config, model=base.without_files(config.system, config.model))


def set_up(config: TrainConfig, devices: Sequence[jax.Device]) -> Setup:
    """A recipe's pieces on devices that need not exist; files that only text needs may be missing."""
    return prepare(without_text(config), devices)


def train_program(setup: Setup) -> Program:
    """The train step."""
    config = setup.config
    sharding = batch_sharding(setup.mesh)
    batch = abstract_batch(setup.stage, config.batch_size, config.data_settings.codes, sharding)
    step = setup.train_step()
    with jax.set_mesh(setup.mesh):
        return Program(TRAIN_STEP, step.trace(setup.abstract, batch))


def decode_programs(setup: Setup) -> Iterator[Program]:
    """The prefill and the decode loop of drawing `config.inference.batch_size` pictures."""
    arguments = _decode_arguments(setup)
    system, params, _, _, decoding = arguments
    with jax.set_mesh(setup.mesh):
        prefill = loop.prefill.trace(*arguments)
        yield Program("prefill", prefill)
        try:
            places = prefill.lower().compile().output_shardings  # decoding begins from the state as prefill leaves it
        except jax.errors.JaxRuntimeError:  # no room: the plan of the prefill says so
            return
        state = jax.tree.map(lambda x, place: x.update(sharding=place), _decode_state(*arguments), places)
        yield Program("decode step", loop.decode_chunk.trace(system, params, state, decoding, STEPS))


def decode_flops(config: TrainConfig) -> dict[str, float]:
    """The FLOPs of both programs, of one turn of the loop; traced for a CPU, nothing is computed."""
    setup = set_up(dataclasses.replace(config, mesh=MeshSettings()), jax.devices("cpu")[:1])
    arguments = _decode_arguments(setup)
    system, params, _, _, decoding = arguments
    with jax.set_mesh(setup.mesh):
        traces = {
            "prefill": loop.prefill.trace(*arguments),
            "decode step": loop.decode_chunk.trace(system, params, _decode_state(*arguments), decoding, STEPS),
        }
    return {name: count_flops(traced.jaxpr.jaxpr) for name, traced in traces.items()}


def _decode_arguments(setup: Setup) -> tuple[Any, ...]:
    """What `prefill` is called with, abstract."""
    settings = from_config(InferenceSettings, setup.config.inference, "config.inference")
    dtype = setup.config.compute_dtype
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), setup.abstract.params)
    keys = jax.eval_shape(sample_keys, jax.ShapeDtypeStruct((settings.batch_size,), np.int32))
    return setup.system, params, _prompts(setup, settings), keys, settings.draw


def _decode_state(system: base.System, params: Any, batch: Any, keys: Any, decoding: Any) -> Any:
    """The shapes of what `prefill` hands over."""
    return jax.eval_shape(lambda p, b, k: loop.prefill(system, p, b, k, decoding), params, batch, keys)


def _prompts(setup: Setup, settings: InferenceSettings) -> Any:
    """Rows of one prompt that asks for a picture; as they lie in the decode's batch."""
    text = settings.prompt("generate").replace("{caption}", PROMPT)
    example = Example("plan", (Turn("user", text),), task=Task.GENERATION)
    rows = [setup.system.prompt(example)] * settings.batch_size
    if rows_per_sample(settings.draw) == 2:
        rows += [setup.system.unconditional(example)] * settings.batch_size
    sharding = row_sharding(setup.mesh, len(rows))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(prompt_batch(rows)))
