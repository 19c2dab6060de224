"""`unitok verify`: an export read again, by our rules and by torch, and both asked the same."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unitok_jax.conversion import probes
from unitok_jax.conversion.exporting import TOLD
from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.safetensors_files import SINGLE
from unitok_jax.weights.transfer import import_tree

FILES = "torch.load"


@dataclasses.dataclass(frozen=True)
class Compared:
    """One comparison.

    Attributes:
        artefact: of the export.
        kind: the torch class, or `FILES` where none reads the artefact.
        what: is compared.
        difference: the largest, as a share of the largest value of torch's.
    """

    artefact: str
    kind: str
    what: str
    difference: float


def verify_export(folder: Path, seed: int = 0) -> Iterator[Compared]:
    """Compares every artefact: on random inputs in float32 where a torch class reads it, else tensor by tensor.

    Args:
        folder: what `unitok export` made.
        seed: of the inputs.

    Raises:
        UserError: for a folder that is no export, or that the torch class does not load whole.
    """
    told = _told(folder)
    system = base.build(told["system"], base.without_files(told["system"], _in_float32(told["model"])))
    stage = base.build_stage(system, told["stage"], told["stage_options"])
    abstract = jax.tree.map(_wide, jax.eval_shape(stage.init, jax.random.key(0))[0])
    for row in told["artefacts"]:
        place, parts = folder / row["folder"], row["parts"]
        kind = (
            "" if row.get("file") else _torch_class(place)
        )  # a folder's class reads its usual files, none beside them
        if kind not in probes.PROBES:
            yield Compared(row["artefact"], FILES, "tensors", probes.tensors(place / row.get("file", "")))
            continue
        table = system.artefacts[row["artefact"]].only(*parts)
        stored = place / SINGLE if (place / SINGLE).exists() else place
        params = import_tree(table, open_source(stored), {part: abstract[part] for part in parts})
        for what, difference in probes.compare(kind, place, _applier(system, params), parts, seed):
            yield Compared(row["artefact"], kind, what, difference)


def _told(folder: Path) -> Mapping[str, Any]:
    path = folder / TOLD
    if not path.exists():
        raise UserError(f"{folder}: no {TOLD} in it; give a folder that `unitok export` made")
    return json.loads(path.read_text())


def _torch_class(folder: Path) -> str:
    path = folder / "config.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    return document.get("_class_name") or next(iter(document.get("architectures", ())), "")


def _in_float32(settings: Any) -> Any:
    """The model's settings, with float32 wherever a part says in which type it computes."""
    if isinstance(settings, Mapping):
        return {key: "float32" if key == "dtype" else _in_float32(value) for key, value in settings.items()}
    return settings


def _wide(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    floats = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
    return jax.ShapeDtypeStruct(leaf.shape, np.float32) if floats else leaf


def _applier(system: Any, params: Mapping[str, Any]) -> probes.Apply:
    def apply(part: str, *arguments: Any, **options: Any) -> Any:
        run = jax.jit(lambda params, *inputs: system.apply(params, part, *inputs, **options))
        return jax.tree.map(np.asarray, run(params, *arguments))

    return apply
