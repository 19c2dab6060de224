"""What the digits suite is expected to reach, in the order in which the report tells it."""

import dataclasses
from collections.abc import Mapping


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
