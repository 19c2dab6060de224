"""What a chip of each kind can do, from its maker's pages; nothing here was measured by this project."""

import dataclasses
import re

import jax

from unitok_jax.errors import UserError
from unitok_jax.settings import near


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. Sources: Google Cloud's page of each TPU version; NVIDIA's data sheets.

    Attributes:
        name: as in a topology's name, or the GPU's.
        flops: peak of bf16 matrix products, FLOP/s, dense.
        hbm: bytes of memory.
        hbm_rate: bytes/s to and from it.
        ici_rate: bytes/s that it sends to its neighbours, all links together, one way; 0 where not known.
        dcn_rate: bytes/s to other slices; from "How to Scale Your Model" (jax-ml), chapter 2; 0 where not known.
        dims: dimensions of a topology.
    """

    name: str
    flops: float
    hbm: float
    hbm_rate: float
    ici_rate: float = 0.0
    dcn_rate: float = 0.0
    dims: int = 0


GIB = float(1 << 30)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1200e9, 300e9, 6.25e9, 3),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 3.125e9, 2),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9, 6.25e9, 3),
        Chip("v6e", 918e12, 32 * GIB, 1638e9, 400e9, 12.5e9, 2),
        Chip("A100", 312e12, 80 * GIB, 2039e9),
        Chip("H100", 989e12, 80 * GIB, 3350e9),
        Chip("H200", 989e12, 141e9, 4800e9),
    )
}
_KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
# Shapes of slices that Google rents; larger ones of v4 and v5p are any multiples of 4.
SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
}


def chip_of(device: jax.Device) -> Chip | None:
    """The chip that a device is, if it stands in the table."""
    kind = device.device_kind
    words = re.split(r"[\s-]+", kind)  # "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"
    return CHIPS.get(_KINDS.get(kind, "")) or next((chip for name, chip in CHIPS.items() if name in words), None)


def parse_topology(text: str) -> tuple[Chip, str]:
    """Reads the name of a TPU topology, such as ``v5p:4x4x4``.

    Raises:
        UserError: naming what comes nearest.
    """
    kind, _, shape = text.lower().partition(":")
    kinds = [name for name, chip in CHIPS.items() if chip.dims]
    if kind not in kinds:
        raise UserError(f"--topology {text}: no TPU {kind!r}.{near(kind, kinds)}; expected such as v5p:4x4x4")
    chip = CHIPS[kind]
    known = SHAPES[chip.dims]
    sizes = [int(part) for part in shape.split("x") if part.isdigit()]
    large = chip.dims == 3 and len(sizes) == 3 and all(size % 4 == 0 for size in sizes)
    if shape not in known and not (large and sorted(sizes) == sizes and "x".join(map(str, sizes)) == shape):
        raise UserError(f"--topology {text}: {kind} has no slice {shape!r}; nearest: {kind}:{_nearest(sizes, known)}")
    return chip, f"{kind}:{shape}"


def _nearest(sizes: list[int], known: tuple[str, ...]) -> str:
    """The known shape whose number of chips comes nearest."""

    def count(values: list[int]) -> int:
        product = 1
        for value in values:
            product *= value
        return product

    wanted = count(sizes)
    return min(known, key=lambda shape: abs(count([int(part) for part in shape.split("x")]) - wanted))
