"""Around a command's work with a trained model."""

import contextlib
from collections.abc import Iterator

from unitok_jax.errors import UserError
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.training.config import TrainConfig


@contextlib.contextmanager
def using(pipeline: Pipeline, config: TrainConfig) -> Iterator[None]:
    """Says so if the work needs a part of the system that the run does not have."""
    try:
        yield
    except KeyError as error:
        part = error.args[0]
        if not isinstance(part, str) or part in pipeline.params:
            raise
        parts = ", ".join(pipeline.params)
        raise UserError(
            f"a run of stage {config.stage!r} has only {parts}; this command also needs {part!r}"
        ) from error
