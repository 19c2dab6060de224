"""Which of a system's decoders draws, and how: `--system`, `--detokenizer`, `--resolution`, `--scale` and
`--detokenizer-guidance` of `unitok generate`."""

import argparse

from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.systems.base import HasDetokenizers
from unitok_jax.training.config import TrainConfig


def redirected(pipeline: Pipeline, config: TrainConfig, args: argparse.Namespace) -> Pipeline:
    """The pipeline, drawing as the options say.

    Raises:
        UserError: for another system than the workdir's, or a de-tokenizer, resolution or scale that it has not.
    """
    if args.system not in (None, config.system):
        raise UserError(f"--system {args.system}: the workdir holds a {config.system}")
    how = (args.detokenizer, args.resolution, args.scale, args.detokenizer_guidance)
    if how == (None,) * len(how):
        return pipeline
    if not isinstance(pipeline.system, HasDetokenizers):
        raise UserError(
            f"--detokenizer, --resolution, --scale, --detokenizer-guidance: {config.system} has one way to draw, at "
            "one size"
        )
    system = pipeline.system.with_detokenizer(*how)
    return Pipeline(system, pipeline.params, pipeline.settings, pipeline.progress, pipeline.mesh)
