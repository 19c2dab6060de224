"""Plans of a recipe on a topology: one mesh, or a search among those that divide it."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from unitok_jax.errors import UserError
from unitok_jax.parallel.chips import Chip, parse_topology
from unitok_jax.parallel.mesh import MeshSettings
from unitok_jax.planning import plan as plans
from unitok_jax.planning.plan import Plan
from unitok_jax.planning.programs import Program, absent_devices, decode_programs, set_up, train_program
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
    chip, _ = target.parsed
    setup = set_up(config, target.devices)
    if decode:
        return [_plan(program, setup, target, chip, None, None) for program in decode_programs(setup)]
    model_flops = step_flops(setup.config)
    twice = without_remat(setup.config.model) != setup.config.model
    flops = step_flops(setup.config, remat=True) if twice else model_flops
    return [_plan(train_program(setup), setup, target, chip, flops, model_flops)]


def search(config: TrainConfig, target: Target, tell: Callable[[Plan], None]) -> list[Plan]:
    """Tries the meshes and batch sizes that divide a topology; those that fit come first, the fastest leading.

    Batches are the recipe's own, its half and its double. `tell` hears of each plan as it is made.

    Raises:
        UserError: if nothing divides the topology.
    """
    found = []
    for mesh, batch in candidates(config, len(target.devices), target.slices):
        data = {**config.data, "batch_size": batch}
        try:
            (plan,) = make_plans(dataclasses.replace(config, mesh=mesh, data=data), target)
        except UserError:  # this one does not divide
            continue
        found.append(plan)
        tell(plan)
    if not found:
        raise UserError(f"--search: no mesh of {len(target.devices)} chips divides a batch of {config.batch_size} rows")
    return sorted(found, key=rank)


def candidates(config: TrainConfig, chips: int, slices: int) -> Iterator[tuple[MeshSettings, int]]:
    """Meshes that use all chips, and the batch sizes that divide over them."""
    powers = [1 << n for n in range(chips.bit_length()) if chips % (1 << n) == 0]
    batches = sorted({config.batch_size, config.batch_size * 2, max(1, config.batch_size // 2)})
    for tensor, context in itertools.product(powers, powers):
        if tensor > MOST_TENSOR or context > MOST_CONTEXT or chips % (slices * tensor * context):
            continue
        mesh = MeshSettings(slices, chips // (slices * tensor * context), tensor, context)
        for batch in batches:
            if batch % (config.accumulate * mesh.data * mesh.fsdp) == 0:
                yield mesh, batch


def rank(plan: Plan) -> tuple[bool, float]:
    """What fits first, then by the estimated time of a row of the batch."""
    per_row = plan.estimate["slowest_s"] / plan.batch if plan.estimate else plan.needed
    return not plan.fits, per_row


def _plan(
    program: Program, setup: Setup, target: Target, chip: Chip, flops: float | None, model_flops: float | None
) -> Plan:
    started = time.perf_counter()
    compiled, needed = plans.compile_program(program)
    seconds = time.perf_counter() - started
    collectives, kernels, memory, estimate = [], [], None, None
    chips = setup.mesh.size
    if compiled is not None:
        collectives, kernels = plans.describe(compiled)
        memory = plans.memory_of(compiled)
        needed = memory.peak
        if flops is not None:
            estimate = plans.roofline(chip, chips, flops, model_flops, memory, collectives)
            hours = setup.config.steps * chips / 3600
            estimate |= {f"chip_hours_{end}": estimate[f"{end}_s"] * hours for end in ("fastest", "slowest")}
    return Plan(
        program=program.name,
        topology=target.topology,
        slices=target.slices,
        chips=chips,
        mesh=plans.shape_of(setup.mesh),
        batch=setup.config.batch_size if flops is not None else setup.config.inference.get("batch_size", 0),
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
