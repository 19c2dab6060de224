"""Where figures come from: what every suite writes beside its figures."""

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from unitok_jax.inference.decode import to_host

PACKAGES = ("unitok-jax", "jax", "flax", "numpy", "pillow", "scikit-learn")


def provenance(
    pipeline: Any, config: Mapping[str, Any], *, split: str, resolution: int | None, seed: int, **more: Any
) -> dict[str, Any]:
    """What a reader must know to get the same figures.

    Args:
        pipeline: the `inference.pipeline.Pipeline` that was measured; how it draws is told from its settings.
        config: of the run: ``system``, ``seed`` (of its training), ``config hash`` and ``step`` (the checkpoint's
            directory), the last two None where there is no run.
        split: which pictures.
        resolution: side of the pictures in pixels; None where only they tell it.
        seed: of what the suite draws.
        more: the suite's own settings.
    """
    image = pipeline.settings.draw.image
    return {
        "system": config["system"],
        "step": config.get("step"),
        "checkpoint hash": params_hash(pipeline.params),
        "config hash": config.get("config hash"),
        "training seed": config["seed"],
        "split": split,
        "resolution": resolution,
        "seed": seed,
        "guidance": pipeline.settings.draw.guidance,
        "temperature": image.temperature,
        "top_k": image.top_k,
        "top_p": image.top_p,
        **more,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def params_hash(params: Mapping[str, Any]) -> str:
    """Twelve hex digits of the parameters' paths, types, shapes and values.

    The same weights have the same hash however they are saved or sharded. One leaf at a time comes to the host.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(dict(params), sep="/").items()):
        array = np.ascontiguousarray(to_host(leaf) if isinstance(leaf, jax.Array) else leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:12]
