"""How codes are drawn, as plain hashable values: static arguments of the jitted decode programs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one id is drawn from logits.

    Attributes:
        temperature: divides the logits after the filters; 0 takes the arg-max.
        top_k: keeps the k largest logits, ties with the k-th kept; 0 keeps all.
        top_p: keeps the smallest set of ids whose probability reaches p, the crossing id included; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


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
    """

    text: Sampling = GREEDY
    image: Sampling = Sampling()
    guidance: float = 1.0
    max_steps: int = 512
    grid: tuple[int, int] | None = None
    noise_steps: int = 50
