"""A plan: what a compiled program takes of each chip, and what it may be expected to give."""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh

from unitok_jax.parallel.chips import GIB, Chip
from unitok_jax.planning.hlo import Collective, read_collectives
from unitok_jax.planning.programs import Program
from unitok_jax.training.setup import Setup

# A program that does not fit: "Used 18.50G of 15.75G hbm".
_TOO_LARGE = re.compile(r"Used ([\d.]+)([GMK]) of ([\d.]+)([GMK]) hbm", re.IGNORECASE)
_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip."""

    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    peak: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A program on a mesh of chips.

    Attributes:
        program: ``train step``, ``prefill`` or ``decode step``.
        topology, slices, chips, mesh, batch: where it runs, and rows of the global batch.
        fits: whether the compiler could place it.
        memory: of each chip; None if it does not fit.
        needed: bytes that the compiler asks for.
        hbm: bytes that a chip has.
        collectives: what a step sends.
        kernels: fused kernels that the program calls, and how it attends.
        flops, model_flops: of a step, all chips; with and without what is computed twice. None where not counted.
        estimate: the roofline's, see `roofline`; None where there is none.
        compile_seconds: how long the compiler took.
    """

    program: str
    topology: str
    slices: int
    chips: int
    mesh: dict[str, int]
    batch: int
    fits: bool
    memory: Memory | None
    needed: float
    hbm: float
    collectives: list[Collective]
    kernels: list[str]
    flops: float | None
    model_flops: float | None
    estimate: dict[str, float] | None
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def compile_program(program: Program) -> tuple[Any | None, float]:
    """The compiled program, or None and the bytes that it would need if the chip's memory does not hold it."""
    try:
        return program.lowered.compile(), 0.0
    except jax.errors.JaxRuntimeError as error:
        found = _TOO_LARGE.search(str(error))
        if not found:
            raise
        return None, float(found[1]) * _UNIT[found[2].upper()]


def memory_of(compiled: Any) -> Memory:
    """What a compiled program takes of each chip."""
    stats = compiled.memory_analysis()
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
    aliased, temporaries = stats.alias_size_in_bytes, stats.temp_size_in_bytes
    whole = arguments + outputs - aliased + temporaries + stats.generated_code_size_in_bytes
    return Memory(arguments, outputs, aliased, temporaries, max(whole, getattr(stats, "peak_memory_in_bytes", 0)))


def kernels_of(text: str) -> list[str]:
    """How a compiled program attends."""
    return ["attention: splash" if "splash" in text else "attention: plain or blockwise XLA"]


def roofline(chip: Chip, chips: int, flops: float, model_flops: float, memory: Memory, collectives: list[Collective]):
    """An estimate of the step from the maker's peaks; no step was timed.

    The compute time is at peak, the memory time counts arguments and results once and temporaries twice (written and
    read). `fastest` hides the network behind computation altogether, `slowest` hides nothing; the MFU is that of both.
    """
    sent = {net: sum(c.wire for c in collectives if c.network == net) for net in ("ICI", "DCN")}
    times = {
        "compute_s": flops / chips / chip.flops,
        "memory_s": (memory.arguments + memory.outputs + 2 * memory.temporaries) / chip.hbm_rate,
        "ici_s": sent["ICI"] / chip.ici_rate,
        "dcn_s": sent["DCN"] / chip.dcn_rate,
    }
    fastest, slowest = max(times.values()), max(times["compute_s"], times["memory_s"]) + times["ici_s"] + times["dcn_s"]
    ideal = model_flops / chips / chip.flops
    rates = {"mfu_best": ideal / fastest, "mfu_worst": ideal / slowest} if fastest else {}
    return times | {"fastest_s": fastest, "slowest_s": slowest} | rates


def parameters_by_part(setup: Setup) -> dict[str, int]:
    """How many parameters each part has."""
    parts = setup.abstract.params.items()
    return {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves)) for part, leaves in parts}


def state_bytes(setup: Setup) -> float:
    """Bytes of the train state on each chip, from its shardings alone."""

    def size(leaf: jax.ShapeDtypeStruct) -> float:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return float(sum(map(size, jax.tree.leaves(setup.abstract))))


def shape_of(mesh: Mesh) -> dict[str, int]:
    """The devices along each axis."""
    return dict(mesh.shape)


def gib(size: float) -> str:
    """``1.25 GiB``"""
    return f"{size / GIB:.2f} GiB"


def describe(compiled: Any) -> tuple[list[Collective], list[str]]:
    """A compiled program's collectives and kernels."""
    text = compiled.as_text()
    return read_collectives(text), kernels_of(text)
