"""Plans of a recipe on a topology: one mesh, or a search among those that divide it."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from unitok_jax.errors import UserError
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.parallel.chips import Chip, parse_topology
from unitok_jax.parallel.mesh import MeshSettings
from unitok_jax.planning import plan as plans
from unitok_jax.planning.plan import Plan
from unitok_jax.planning.programs import (
    TRAIN_STEP,
    Program,
    absent_devices,
    decode_flops,
    decode_programs,
    set_up,
    train_program,
)
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.flops import step_flops, without_remat
from unitok_jax.training.setup import Setup

MOST_TENSOR, MOST_CONTEXT = 8, 4  # what a search tries along axes that send much


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a recipe is to run: slices of a topology such as ``v5p:4x4x4``."""

    topology: str
    slices: int = 1

    def __post_init__(self):
        if self.slices < 1:
            raise UserError(f"--slices {self.slices}: expected 1 or more")

    @functools.cached_property
    def parsed(self) -> tuple[Chip, str]:
        """The chip, and the topology's name as libtpu knows it."""
        return parse_topology(self.topology)

    @functools.cached_property
    def devices(self) -> Sequence[jax.Device]:
        """All of its chips; those that have two cores count as one device, as in JAX."""
        return absent_devices(self.parsed[1], self.slices)


def make_plans(config: TrainConfig, target: Target, decode: bool = False) -> list[Plan]:
    """Compiles a recipe's train step, or its prefill and decode step, with the recipe's mesh.

    Raises:
        UserError: for a topology that does not exist, a mesh or batch that does not divide it, or without libtpu.
    """
    setup = set_up(config, target.devices)
    if decode:
        flops = decode_flops(config)
        return [_plan(program, setup, target, *[flops[program.name]] * 2) for program in decode_programs(setup)]
    model_flops = step_flops(setup.config)
    twice = without_remat(setup.config.model) != setup.config.model
    flops = step_flops(setup.config, remat=True) if twice else model_flops
    return [_plan(train_program(setup), setup, target, flops, model_flops)]


def search(config: TrainConfig, target: Target, tell: Callable[[Plan], None], decode: bool = False) -> list[Plan]:
    """Tries the meshes and batch sizes that divide a topology; those that fit come first, the fastest leading.

    Batches are the recipe's own, its half and its double: of a train step the rows, of a decode the samples, whose
    prefill and decode step are ranked apart. `tell` hears of each plan as it is made.

    Raises:
        UserError: if nothing divides the topology, or the recipe cannot be built.
    """
    chips, found = len(target.devices), []
    wanted = samples(config) if decode else config.batch_size
    for mesh, batch in candidates(wanted, chips, target.slices, 1 if decode else config.accumulate):
        plans_made = make_plans(_with_batch(config, mesh, batch, chips, decode), target, decode)
        found += plans_made
        for plan in plans_made:
            tell(plan)
    if not found:
        raise UserError(f"--search: no mesh of {chips} chips divides a batch of {wanted} rows")
    return sorted(found, key=lambda plan: (plan.program, *rank(plan)))


def _with_batch(config: TrainConfig, mesh: MeshSettings, batch: int, chips: int, decode: bool) -> TrainConfig:
    """The recipe on a mesh: of a decode the batch is `config.inference`'s, and the train step's is of no account."""
    rows = config.accumulate * chips if decode else batch
    inference = {**config.inference, "batch_size": batch} if decode else config.inference
    return dataclasses.replace(config, mesh=mesh, data={**config.data, "batch_size": rows}, inference=inference)


def samples(config: TrainConfig) -> int:
    """How many samples a decode draws at once."""
    return int(config.inference.get("batch_size", InferenceSettings.batch_size))


def candidates(batch: int, chips: int, slices: int, accumulate: int) -> Iterator[tuple[MeshSettings, int]]:
    """Meshes that use all chips, and the batch sizes around `batch` that divide over them."""
    powers = [1 << n for n in range(chips.bit_length()) if chips % (1 << n) == 0]
    for tensor, context in itertools.product(powers, powers):
        if tensor > MOST_TENSOR or context > MOST_CONTEXT or chips % (slices * tensor * context):
            continue
        mesh = MeshSettings(slices, chips // (slices * tensor * context), tensor, context)
        for size in sorted({batch, batch * 2, max(1, batch // 2)}):
            if size % (accumulate * mesh.data * mesh.fsdp) == 0:
                yield mesh, size


def rank(plan: Plan) -> tuple[bool, float]:
    """What fits first, then by the estimated time of a row of the batch."""
    per_row = plan.estimate["slowest_s"] / plan.batch if plan.estimate else plan.needed
    return not plan.fits, per_row


def _plan(program: Program, setup: Setup, target: Target, flops: float, model_flops: float) -> Plan:
    started = time.perf_counter()
    compiled, needed = plans.compile_program(program)
    seconds = time.perf_counter() - started
    collectives, kernels, memory, estimate = [], [], None, None
    (chip, _), chips, trains = target.parsed, setup.mesh.size, program.name == TRAIN_STEP
    if compiled is not None:
        collectives, kernels = plans.describe(compiled)
        memory = plans.memory_of(compiled)
        needed = memory.peak
        estimate = plans.roofline(chip, chips, flops, model_flops, memory, collectives, rewrites=trains)
    if estimate is not None and trains:
        hours = setup.config.steps * chips / 3600
        estimate |= {f"chip_hours_{end}": estimate[f"{end}_s"] * hours for end in ("fastest", "slowest")}
    return Plan(
        program=program.name,
        parameters=plans.parameters_by_part(setup),
        topology=target.topology,
        slices=target.slices,
        chips=chips,
        mesh=plans.shape_of(setup.mesh),
        batch=setup.config.batch_size if trains else samples(setup.config),
        fits=compiled is not None,
        memory=memory,
        needed=needed,
        hbm=chip.hbm,
        collectives=collectives,
        kernels=kernels,
        flops=flops,
        model_flops=model_flops,
        estimate=estimate,
        compile_seconds=seconds,
    )
