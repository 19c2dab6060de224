"""Which of a system's decoders draws: `--system`, `--detokenizer` and `--resolution` of `unitok generate`."""

import argparse

from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.training.config import TrainConfig


def redirected(pipeline: Pipeline, config: TrainConfig, args: argparse.Namespace) -> Pipeline:
    """The pipeline, drawing as the options say.

    Raises:
        UserError: for another system than the workdir's, or a de-tokenizer or resolution that it has not.
    """
    if args.system not in (None, config.system):
        raise UserError(f"--system {args.system}: the workdir holds a {config.system}")
    if args.detokenizer is None and args.resolution is None:
        return pipeline
    if not hasattr(pipeline.system, "with_detokenizer"):
        raise UserError(f"--detokenizer, --resolution: {config.system} has one way to draw, of one size")
    system = pipeline.system.with_detokenizer(args.detokenizer, args.resolution)
    return Pipeline(system, pipeline.params, pipeline.settings, pipeline.progress, pipeline.mesh)
