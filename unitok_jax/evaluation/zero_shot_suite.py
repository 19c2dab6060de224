"""The zero-shot suite: classes by their names, and pictures by their captions, with a tower and its text side."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unitok_jax.data import fields
from unitok_jax.data.example import BadExample
from unitok_jax.errors import UserError
from unitok_jax.evaluation import measured, zero_shot
from unitok_jax.inference import decode as loop
from unitok_jax.settings import from_config
from unitok_jax.systems.pixels import to_float


@dataclasses.dataclass(frozen=True)
class ZeroShotSettings(measured.Pictures):
    """The options of the suite, besides the pictures.

    Attributes:
        classes: a JSON file of class names in the order of the pictures' labels, and of templates, see `zero_shot`;
            without it nothing is classified.
    """

    classes: str | None = None


def evaluate(pipeline: Any, config: Mapping[str, Any], out: epath.PathLike) -> dict[str, float]:
    """Runs the suite and writes ``result.json``.

    A picture's feature is what the tower says of it, through the codes where these lie on its way (DualToken).

    Args:
        pipeline: an `inference.pipeline.Pipeline` whose run has a text tower.
        config: the run's; ``options`` holds `ZeroShotSettings`.
        out: a local or bucket folder.

    Returns:
        ``zero_shot_top1`` and ``zero_shot_top5`` (shares) where pictures have labels and `classes` is given;
        ``image_to_text_r1`` and ``text_to_image_r1`` where they have captions.

    Raises:
        UserError: for a system without a text tower, pictures without labels or captions, labels beyond the classes.
    """
    settings = from_config(ZeroShotSettings, config.get("options", {}), "--suite zeroshot")
    if not hasattr(pipeline.system, "text_tokens") or pipeline.system.config.text is None:
        raise UserError(f"--suite zeroshot: this {config['system']} has no text tower (config.model.text)")
    out = epath.Path(out)
    classes = zero_shot.read_classes(settings.classes) if settings.classes else None
    source, indices = settings.opened()
    told = measured.made_by(pipeline, config, settings)
    pooled = jax.jit(getattr(pipeline.system, "pooled_codes", pipeline.system.pooled))
    work = functools.partial(_features, pipeline, source, pooled)
    found = measured.in_parts(out, told, indices, pipeline.settings.batch_size, work)
    figures: dict[str, float] = {"pictures": len(found["images"])}
    if classes:
        bare = found["indices"][found["labels"] < 0]
        if len(bare):
            raise UserError(f"--classes: {len(bare)} pictures have no label, such as number {bare[0]} of --source")
        figures |= _classified(pipeline, found, *classes)
    captions = _captions(source, found["indices"])
    if captions:
        figures |= _retrieved(pipeline, found, captions)
    if len(figures) == 1:
        raise UserError(
            "--source: its pictures have neither captions nor, with --classes, labels; this suite needs one of the two"
        )
    told |= {"resolution": [int(n) for n in found["size"][0]]}
    measured.write_result(out, "zeroshot", figures, told)
    return figures


def _features(pipeline: Any, source: Any, pooled: Callable[[Any, Any], Any], indices: np.ndarray) -> measured.Arrays:
    places, records, images = measured.read(source, indices)
    if not images:
        return {}
    system, size = pipeline.system, pipeline.settings.batch_size
    seen = np.stack([system.tower_picture(image) for image in images])
    filled = np.concatenate([seen, np.repeat(seen[-1:], size - len(seen), axis=0)])  # one shape, one compile
    with pipeline.on_mesh():
        features = loop.to_host(pooled(pipeline.params, to_float(pipeline.place(jnp.asarray(filled)))))
    return {
        "images": np.asarray(features, np.float32)[: len(seen)],
        "labels": np.array([_label(record) for record in records]),
        "indices": np.array(places),
        "size": np.array([seen.shape[1:3]] * len(seen)),
    }


def _label(record: Any) -> int:
    try:
        found = fields.label(record)
    except BadExample as error:
        raise UserError(f"--source: {error}") from None
    return -1 if found is None else found


def _classified(pipeline: Any, found: measured.Arrays, names: list[str], templates: list[str]) -> dict[str, float]:
    if found["labels"].max() >= len(names):
        raise UserError(f"--classes: {len(names)} names, but the pictures have labels up to {found['labels'].max()}")
    columns = zero_shot.build(names, templates, functools.partial(_texts, pipeline))
    scores = zero_shot.logits(found["images"], columns)
    return {f"zero_shot_top{k}": zero_shot.top_k(scores, found["labels"], k) for k in (1, 5)}


def _retrieved(pipeline: Any, found: measured.Arrays, captions: list[tuple[int, str]]) -> dict[str, float]:
    owners = np.array([owner for owner, _ in captions])
    texts = _texts(pipeline, [zero_shot.canonical(text) for _, text in captions])
    recalled = zero_shot.recall_at_1(found["images"], texts, owners)
    return {f"{way}_r1": share for way, share in recalled.items()}


def _captions(source: Any, indices: np.ndarray) -> list[tuple[int, str]]:
    """(the picture's row, text) of every caption; empty unless every picture has some."""
    found = []
    for row, index in enumerate(indices):
        given = source[int(index)].get("caption")
        texts = [given] if isinstance(given, str) else list(given or ())
        if not texts:
            return []
        found += [(row, text) for text in texts]
    return found


def _texts(pipeline: Any, texts: Sequence[str]) -> np.ndarray:
    """Features of texts, [n, width], in batches of one shape."""
    size, tokens = pipeline.settings.batch_size, pipeline.system.text_tokens(texts)
    run, found = jax.jit(pipeline.system.pooled_text), []
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        with pipeline.on_mesh():
            features = loop.to_host(run(pipeline.params, pipeline.place(filled)))
        found.append(np.asarray(features, np.float32)[: len(part)])
    return np.concatenate(found)
