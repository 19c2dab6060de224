"""What a run looks like while it trains: the same pictures and prompts, every so many steps."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from unitok_jax.data import fields
from unitok_jax.data.example import BadExample
from unitok_jax.data.sources import RecordSource, open_source
from unitok_jax.errors import UserError, writing
from unitok_jax.evaluation import files
from unitok_jax.evaluation.sheets import save_picture
from unitok_jax.inference.pipeline import Pipeline
from unitok_jax.inference.settings import InferenceSettings
from unitok_jax.settings import from_config
from unitok_jax.systems import base
from unitok_jax.systems.base import Params


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """`config.samples`. What is left empty is not drawn.

    Attributes:
        prompts: drawn, with the seeds 0, 1, 2, ...
        source: a source of pictures, ``{"kind": ..., options}``.
        caption: how many of its first pictures are described; those that cannot be read are passed over.
        reconstruct: how many of its first pictures are taken through their codes and back.
    """

    prompts: tuple[str, ...] = ()
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caption: int = 0
    reconstruct: int = 0


class SampleSheets:
    """Writes ``samples/<step>.png`` and ``samples/<step>.jsonl`` of a run.

    Args:
        config: the recipe.
        workdir: a local or bucket path.

    Raises:
        UserError: for an unknown key of `config.samples`, or a source without a picture that can be read.
    """

    def __init__(self, config: Mapping[str, Any] | ConfigDict, workdir: epath.PathLike):
        settings = from_config(SampleSettings, config.get("samples", {}), "config.samples")
        inference = from_config(InferenceSettings, config.get("inference", {}), "config.inference")
        self._settings, self._folder = settings, epath.Path(workdir) / "samples"
        self._images = _images(settings)
        self._pipeline = Pipeline(base.build(config["system"], config.get("model", {})), {}, inference)

    def __call__(self, params: Params, step: int) -> None:
        """Draws with the parameters after `step`."""
        pipeline, settings = self._pipeline, self._settings
        pipeline.params = params
        rows, texts = [], []
        if settings.reconstruct:
            images = self._images[: settings.reconstruct]
            rows += [images, list(pipeline.reconstruct(images))]
        if settings.prompts:
            rows.append(list(pipeline.generate(settings.prompts)))
            texts += [{"prompt": prompt} for prompt in settings.prompts]
        if settings.caption:
            captions = pipeline.caption(self._images[: settings.caption])
            texts += [{"picture": i, "caption": caption} for i, caption in enumerate(captions)]
        pipeline.params = {}  # the train step donates these buffers
        if jax.process_index() == 0:
            self._write(step, rows, texts)

    def _write(self, step: int, rows: list[Any], texts: list[dict[str, Any]]) -> None:
        with writing(self._folder):
            if rows:
                save_picture(rows, self._folder / f"{step:010d}.png", scale=2)
            if texts:
                files.write_rows(self._folder / f"{step:010d}.jsonl", texts)


def _images(settings: SampleSettings) -> list[Any]:
    count = max(settings.caption, settings.reconstruct)
    if not count:
        return []
    if "kind" not in settings.source:
        raise UserError("config.samples.source.kind: missing; captions and reconstructions need a source of pictures")
    options = {name: value for name, value in settings.source.items() if name != "kind"}
    source = open_source(settings.source["kind"], options, "config.samples.source")
    found = list(itertools.islice(_readable(source), count))
    if not found:
        raise UserError(
            "config.samples.source: none of its records has a picture that can be read; name another source"
        )
    return found


def _readable(source: RecordSource) -> Iterator[Any]:
    for index in range(len(source)):
        try:
            yield fields.images(source[index], ("image",))[0]
        except BadExample:
            continue
