"""How codes are drawn, as plain hashable values: static arguments of the jitted decode programs."""

import dataclasses
import math

from unitok_jax.errors import UserError


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"decoding: {name} {value}; expected {expected}")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one id is drawn from logits.

    Attributes:
        temperature: divides the logits after the filters; 0 takes the arg-max.
        top_k: keeps the k largest logits, ties with the k-th kept; 0 keeps all.
        top_p: keeps the smallest set of ids whose probability reaches p, the crossing id included; 1 keeps all.

    Raises:
        UserError: for a number outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        _check("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (all) or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, 1 at most")


GREEDY = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A whole decode: how text and codes are drawn and how far to go.

    Attributes:
        text, image: the draws in each mode.
        guidance: classifier-free guidance scale g of ``u + g (c - u)``; 1 runs no unconditional rows.
        max_steps: the most steps of the loop (a step yields one or several positions).
        grid: (rows, columns) of the codes of an image to be drawn; None is the system's own.
        noise_steps: steps of the solver, where codes are drawn by diffusion.

    Raises:
        UserError: for a number outside its range.
    """

    text: Sampling = GREEDY
    image: Sampling = Sampling()
    guidance: float = 1.0
    max_steps: int = 512
    grid: tuple[int, int] | None = None
    noise_steps: int = 50

    def __post_init__(self):
        _check("guidance", self.guidance, 0 <= self.guidance < math.inf, "0 or more")
        _check("max_steps", self.max_steps, self.max_steps >= 1, "1 or more")
        _check("noise_steps", self.noise_steps, self.noise_steps >= 1, "1 or more")
