"""Zero-shot classes through UniWeTok's codes: the digit named right by the teacher's own text side.

    python -m benchmarks.claims.semantics --tokenizer RUN --teacher RUN --out result.json

The tokenizer has no text side of its own. What its head pools from the codes was drawn towards the teacher's embedding,
so the teacher's texts name it, as the paper's zero-shot figures are made (arXiv 2602.14178, section 3.1).
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.claims.runs import write
from unitok_jax.backbones.pool_heads import PoolHead, PoolHeadConfig
from unitok_jax.conversion.loading import load_run
from unitok_jax.data import digits
from unitok_jax.evaluation import reading, zero_shot
from unitok_jax.layers.applied import applied
from unitok_jax.quantizers import binary
from unitok_jax.settings import from_config
from unitok_jax.systems.pixels import to_float

TEMPLATES = tuple(f"a handwritten {colour} {{c}}" for colour in digits.COLOURS)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims.semantics")
    for name in ("tokenizer", "teacher", "out"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args(argv)
    scans = digits.split("held_out")
    scores = zero_shot.logits(pooled(args.tokenizer, reading.pictures_of(scans)), named(args.teacher))
    labels = np.array([digits.digit(index) for index, _ in scans])
    write(Path(args.out), {"zero_shot_top1": zero_shot.top_k(scores, labels, 1)})


def pooled(run: str, pictures: np.ndarray) -> zero_shot.Features:
    """What a tokenizer's head pools from the codes of pictures."""
    pipeline, config = load_run(run)
    head = PoolHead(from_config(PoolHeadConfig, config.stage_options["distill"]["pool"], "distill.pool"))
    features, _ = pipeline.system.apply(pipeline.params, "vae", to_float(pictures), method="encode")
    codes = binary.straight_through(features)
    tokens = codes.reshape(len(codes), -1, codes.shape[-1])
    return np.asarray(applied(head, pipeline.params["pools"]["post"], tokens))


def named(run: str) -> zero_shot.Features:
    """The classifier of the ten digits by a teacher's text side, [width, 10]."""
    pipeline, _ = load_run(run)
    run_text = jax.jit(functools.partial(pipeline.system.pooled_text, pipeline.params))
    return zero_shot.build(
        digits.NUMBERS, TEMPLATES, lambda texts: np.asarray(run_text(pipeline.system.text_tokens(texts)))
    )


if __name__ == "__main__":
    main()
