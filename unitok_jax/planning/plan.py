"""A plan: what a compiled program takes of each chip, and what it may be expected to give."""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh

from unitok_jax.layers.attention import BACKENDS, SCOPE
from unitok_jax.parallel.chips import GIB, Chip
from unitok_jax.planning.hlo import Collective, read_collectives
from unitok_jax.planning.programs import Program
from unitok_jax.training.setup import Setup

# A program that does not fit: "Used 18.50G of 15.75G hbm", or "HLO temporaries (21.64G) exceeds available HBM".
_TOO_LARGE = re.compile(r"(?:Used |HLO temporaries \()([\d.]+)([GMK])\)? (?:of|exceeds)", re.IGNORECASE)
_BACKEND = re.compile(rf"{SCOPE}({'|'.join(BACKENDS)})\b")
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
        parameters: how many each part has.
        topology, slices, chips, mesh, batch: where it runs, and rows of the global batch (samples of a decode).
        fits: whether the compiler could place it.
        memory: of each chip; None if it does not fit.
        needed: bytes that the compiler asks for.
        hbm: bytes that a chip has.
        collectives: what a step sends.
        kernels: by which backends of `layers.attention` the program attends.
        flops, model_flops: of a step, all chips; with and without what is computed twice.
        estimate: the roofline's, see `roofline`; None if it does not fit. A train step's also holds the whole run's
            chip-hours.
        compile_seconds: how long the compiler took.
    """

    program: str
    parameters: dict[str, int]
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
    flops: float
    model_flops: float
    estimate: dict[str, float] | None
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def compile_program(program: Program) -> tuple[Any | None, float]:
    """The compiled program, or None and the bytes that it would need if the chip's memory does not hold it."""
    try:
        return program.traced.lower().compile(), 0.0
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
    """The attention backends whose names `attention` put into a compiled program's text."""
    return [f"attention: {name}" for name in sorted(set(_BACKEND.findall(text)))]


def roofline(
    chip: Chip,
    chips: int,
    flops: float,
    model_flops: float,
    memory: Memory,
    collectives: list[Collective],
    rewrites: bool = True,
) -> dict[str, float]:
    """An estimate of the step from the maker's peaks; no step was timed.

    The compute time is at peak; the memory time counts arguments and results once (results in an argument's place only
    where `rewrites` says that they are written anew, as a train step's) and temporaries twice (written and read).
    `fastest` hides the network behind computation altogether, `slowest` hides nothing; the MFU is that of both.
    """
    results = memory.outputs if rewrites else memory.outputs - memory.aliased
    sent = {net: sum(c.wire for c in collectives if c.network == net) for net in ("ICI", "DCN")}
    times = {
        "compute_s": flops / chips / chip.flops,
        "memory_s": (memory.arguments + results + 2 * memory.temporaries) / chip.hbm_rate,
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
