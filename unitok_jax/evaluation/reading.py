"""How well a pipeline reads digit pictures: captions, answers, and which visual stream it leans on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8

from unitok_jax.data import digits
from unitok_jax.evaluation import files

Scan = tuple[int, str]  # a scan's index and the colour it is shown in


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a text says, held against one picture.

    Attributes:
        digit, colour: whether the text names the picture's own.
    """

    digit: bool
    colour: bool

    @property
    def exact(self) -> bool:
        """Both right."""
        return self.digit and self.colour


def pictures_of(scans: Sequence[Scan]) -> UInt8[np.ndarray, "B H W 3"]:
    """The scans' pictures."""
    return np.stack([digits.render(index, colour) for index, colour in scans])


def compare(texts: Sequence[str], scans: Sequence[Scan]) -> list[Reading]:
    """Holds each text against its scan."""
    said = [digits.parse_caption(text) for text in texts]
    return [
        Reading(digit == digits.digit(index), colour == shown)
        for (digit, colour), (index, shown) in zip(said, scans, strict=True)
    ]


def share(values: Sequence[bool] | Bool[np.ndarray, " n"]) -> float:
    """The share that is true."""
    return float(np.mean(values))


def held_out_unseen() -> tuple[Scan, ...]:
    """Every held-out scan of an unseen pair's digit, in that pair's colour."""
    indices = [i for i in range(len(digits.load()[0])) if digits.held_out(i)]
    return tuple((i, c) for d, c in sorted(digits.UNSEEN_PAIRS) for i in indices if digits.digit(i) == d)


def captions(pipeline: Any, out: epath.Path) -> dict[str, float]:
    """Captions the held-out pictures; writes ``captions.jsonl``.

    `caption_exact` is over the held-out split as it stands; the split by seen and unseen pairs takes the unseen
    ones from all held-out scans of these digits, because few of them come in that very colour.
    """
    main, unseen = digits.split("held_out"), held_out_unseen()
    texts = pipeline.caption(pictures_of(main + unseen))
    rows = [
        {"index": index, "colour": colour, "digit": digits.digit(index), "caption": text}
        for (index, colour), text in zip(main, texts[: len(main)], strict=True)
    ]
    files.write_rows(out / "captions.jsonl", rows)
    readings = compare(texts, main + unseen)
    first, rest = readings[: len(main)], readings[len(main) :]
    seen = [r for r, (i, c) in zip(first, main, strict=True) if (digits.digit(i), c) not in digits.UNSEEN_PAIRS]
    return {
        "caption_exact": share([r.exact for r in first]),
        "caption_colour": share([r.colour for r in first]),
        "caption_digit": share([r.digit for r in first]),
        "caption_exact_seen_pairs": share([r.exact for r in seen]),
        "caption_exact_unseen_pairs": share([r.exact for r in rest]),
    }


def answers(pipeline: Any, out: epath.Path) -> dict[str, float]:
    """Asks both questions about every held-out picture; writes ``answers.jsonl``."""
    scans = digits.split("held_out")
    pictures = pictures_of(scans)
    rows, right = [], {}
    for name, question in (("colour", digits.COLOUR_QUESTION), ("digit", digits.DIGIT_QUESTION)):
        texts = pipeline.ask(pictures, [question] * len(scans))
        readings = compare(texts, scans)
        right[f"answer_{name}"] = share([getattr(r, name) for r in readings])
        rows += [
            {"index": i, "colour": c, "digit": digits.digit(i), "question": question, "answer": text}
            for (i, c), text in zip(scans, texts, strict=True)
        ]
    files.write_rows(out / "answers.jsonl", rows)
    return right


def disagreeing(scans: Sequence[Scan], seed: int) -> list[Scan]:
    """For each scan another of them with another digit and another colour, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    shown = np.array([digits.digit(index) for index, _ in scans])
    colours = np.array([colour for _, colour in scans])
    fits = (shown[:, None] != shown) & (colours[:, None] != colours)
    return [scans[rng.choice(np.flatnonzero(row))] for row in fits]


def leaning(pipeline: Any, seed: int) -> dict[str, float]:
    """Which of the two visual streams the captions come from.

    A blanked stream is that of a black picture. Where the streams disagree, the codes are of one held-out picture
    and the features of another that differs in digit and colour.
    """
    scans = digits.split("held_out")
    others = disagreeing(scans, seed)
    pictures = pictures_of(scans)
    blank = np.zeros_like(pictures)
    without_codes = compare(pipeline.caption(blank, feature_images=pictures), scans)
    without_features = compare(pipeline.caption(pictures, feature_images=blank), scans)
    texts = pipeline.caption(pictures, feature_images=pictures_of(others))
    return {
        "caption_exact_codes_blanked": share([r.exact for r in without_codes]),
        "caption_exact_features_blanked": share([r.exact for r in without_features]),
    } | _followed(compare(texts, scans), compare(texts, others))


def _followed(codes: Sequence[Reading], features: Sequence[Reading]) -> dict[str, float]:
    """The shares that follow the codes, the features or neither, for the digit, the colour and both at once."""
    shares = {}
    for part, name in (("exact", ""), ("digit", "digit_"), ("colour", "colour_")):
        by_codes = share([getattr(r, part) for r in codes])
        by_features = share([getattr(r, part) for r in features])
        shares[f"disagree_{name}codes"] = by_codes
        shares[f"disagree_{name}features"] = by_features
        shares[f"disagree_{name}neither"] = 1 - by_codes - by_features
    return shares
