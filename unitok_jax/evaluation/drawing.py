"""How well a pipeline draws digit pictures: generation from text, copies of training pictures, reconstruction."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from unitok_jax.data import digits
from unitok_jax.evaluation import files, metrics
from unitok_jax.evaluation.judge import Verdict, judge
from unitok_jax.evaluation.reading import Scan, pictures_of, share

COPY = 0.02  # a picture within this RMSE of a training picture counts as a copy of it

Pair = tuple[int, str]  # a digit and a colour


def pairs(seen: bool) -> list[Pair]:
    """The pairs trained on, or the ones never trained on."""
    every = [(digit, colour) for digit in range(10) for colour in digits.COLOUR_NAMES]
    return [pair for pair in every if (pair in digits.UNSEEN_PAIRS) != seen]


def generations(pipeline: Any, out: epath.Path, seed: int, seen: int, unseen: int) -> dict[str, float]:
    """Draws `seen` pictures of every pair trained on and `unseen` of every other.

    Writes ``generated.jsonl`` and ``generated/*.png``.
    """
    wanted = [pair for pair in pairs(seen=True) for _ in range(seen)]
    wanted += [pair for pair in pairs(seen=False) for _ in range(unseen)]
    prompts = [digits.caption(*pair) for pair in wanted]
    pictures = pipeline.generate(prompts, seeds=seed)
    verdicts = judge()(pictures)
    right = [(v.digit, v.colour) == pair for v, pair in zip(verdicts, wanted, strict=True)]
    _write_generated(out, wanted, prompts, pictures, verdicts)
    split = len(pairs(seen=True)) * seen
    return {
        "generation_correct": share(right[:split]),
        "generation_correct_unseen_pairs": share(right[split:]),
        "generation_copies": share(metrics.nearest_rmse(pictures, training_pictures()) <= COPY),
        "generation_prompts": split,
        "generation_prompts_unseen_pairs": len(wanted) - split,
    }


def _write_generated(
    out: epath.Path, wanted: Sequence[Pair], prompts: Sequence[str], pictures: np.ndarray, verdicts: Sequence[Verdict]
) -> None:
    rows: list[dict[str, Any]] = []
    for i, ((digit, colour), prompt, verdict) in enumerate(zip(wanted, prompts, verdicts, strict=True)):
        name = f"generated/{i:03d}-{colour}-{digits.NUMBERS[digit]}.png"
        files.write_picture(out / name, pictures[i])
        seen = (digit, colour) not in digits.UNSEEN_PAIRS
        judged = {"judged_digit": verdict.digit, "judged_colour": verdict.colour}
        rows.append({"prompt": prompt, "digit": digit, "colour": colour, "seen": seen, "file": name, **judged})
    files.write_rows(out / "generated.jsonl", rows)
    files.keep_only(out / "generated", {row["file"] for row in rows})


def training_pictures() -> Iterator[UInt8[np.ndarray, "R H W 3"]]:
    """Every picture of the training split, one colour at a time."""
    for colour in digits.COLOUR_NAMES:
        yield pictures_of([scan for scan in digits.split("train") if scan[1] == colour])


def reconstructions(pipeline: Any, out: epath.Path) -> dict[str, float]:
    """Reconstructs the held-out pictures; writes ``reconstructed/<scan>.png``."""
    scans = digits.split("held_out")
    originals = pictures_of(scans)
    pictures = pipeline.reconstruct(originals)
    for (index, _), picture in zip(scans, pictures, strict=True):
        files.write_picture(reconstructed(out, index), picture)
    return {
        "reconstruction_psnr": float(np.mean(metrics.psnr(pictures, originals))),
        "reconstruction_judged": judged(pictures, scans),
    }


def reconstructed(out: epath.Path, index: int) -> epath.Path:
    """Where a held-out scan's reconstruction lies."""
    return out / "reconstructed" / f"{index:04d}.png"


def judged(pictures: UInt8[np.ndarray, "B H W 3"], scans: Sequence[Scan]) -> float:
    """The share in which the judge sees both the digit and the colour of the scan."""
    right = [
        (v.digit, v.colour) == (digits.digit(index), colour)
        for v, (index, colour) in zip(judge()(pictures), scans, strict=True)
    ]
    return share(right)


def codebook(pipeline: Any, out: epath.Path) -> dict[str, float]:
    """Counts the codes of the held-out pictures; writes ``codes.json``, by codebook the count of each entry.

    Where there are several codebooks (or scales), the figures without a name are those of the worst.
    """
    tokens = pipeline.encode(pictures_of(digits.split("held_out")))
    counts = {
        name: metrics.code_histogram(codes, entries) for name, (codes, entries) in pipeline.codebooks(tokens).items()
    }
    files.write_json(out / "codes.json", {name: histogram.tolist() for name, histogram in counts.items()})
    found = {"usage": metrics.usage, "perplexity": metrics.perplexity}
    by_book = {figure: {name: of(histogram) for name, histogram in counts.items()} for figure, of in found.items()}
    several = len(counts) > 1
    return {
        "codebook_entries": max(map(len, counts.values())),
        **{f"codebook_{figure}": min(values.values()) for figure, values in by_book.items()},
        **{f"codebook_{f}_{name}": v for f, values in by_book.items() for name, v in values.items() if several},
        "codes_per_image": int(np.prod(tokens.codes.shape[2:])),
    }
