"""What the digits suite is expected to reach, in the order in which the report tells it: UniToken's bounds."""

import dataclasses
from collections.abc import Mapping

from unitok_jax.errors import UserError
from unitok_jax.settings import near


@dataclasses.dataclass(frozen=True)
class Target:
    """One figure.

    Attributes:
        key: its name in ``metrics.json``.
        label: what it is, for the report.
        bound: what it must reach, or must not exceed where `most` is set.
        most: whether `bound` is an upper one.
        unit: ``%`` for shares, else what follows the number.
    """

    key: str
    label: str
    bound: float
    most: bool = False
    unit: str = "%"

    def met(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure is there and good enough."""
        value = figures.get(self.key, float("nan"))
        return value <= self.bound if self.most else value >= self.bound

    def show(self, value: float) -> str:
        """The number with its unit."""
        if self.unit == "%":
            return f"{100 * value:.1f}\u00a0%" if value not in (0, 1) else f"{100 * value:.0f}\u00a0%"
        return f"{value:.4g}\u00a0{self.unit}".rstrip()

    @property
    def wanted(self) -> str:
        """The bound in words."""
        bound = f"{100 * self.bound:g}\u00a0%" if self.unit == "%" else f"{self.bound:g}\u00a0{self.unit}".rstrip()
        return f"{'at most' if self.most else 'at least'} {bound}"


def chosen(bounds: Mapping[str, float]) -> tuple[Target, ...]:
    """The targets that `bounds` names, with its bounds, in the order of `TARGETS`; all of `TARGETS` for none.

    Raises:
        UserError: for a figure that has no target.
    """
    known = {target.key: target for target in (*TARGETS, *OTHERS)}
    unknown = next((key for key in bounds if key not in known), None)
    if unknown:
        raise UserError(f"config.evaluation.targets.{unknown}: no such figure.{near(unknown, known)}")
    return tuple(dataclasses.replace(t, bound=bounds[key]) for key, t in known.items() if key in bounds) or TARGETS


TARGETS = (
    Target("caption_exact", "Captions right in digit and colour", 0.88),
    Target("answer_colour", "“What colour is it?” answered right", 0.97),
    Target("answer_digit", "“Which digit?” answered right", 0.88),
    Target("generation_correct", "Drawn as asked, pairs seen in training", 0.85),
    Target("generation_correct_unseen_pairs", "Drawn as asked, pairs never trained on", 0.70),
    Target("generation_copies", "Drawings that copy a training picture", 0.02, most=True),
    Target("reconstruction_psnr", "Reconstruction, mean PSNR", 26, unit="dB"),
    Target("reconstruction_judged", "Reconstructions still right", 0.92),
    Target("codebook_usage", "Codebook entries in use", 0.80),
    Target("codebook_perplexity", "Codebook perplexity", 70, unit=""),
    Target("codes_per_image", "Codes an image", 16, unit=""),
    Target("judge_accuracy", "The judge on real held-out digits", 0.95),
)
OTHERS = (Target("edit_correct", "Held-out pictures edited as asked", 0.60),)  # of models that edit
