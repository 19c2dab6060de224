"""`unitok export`: the parameters of a run as the files that other people's code loads."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from unitok_jax.conversion.card import last_metrics, model_card, source_line
from unitok_jax.conversion.kept import kept_files
from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.systems.release import FORMATS, Layout, release_of
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.config import TrainConfig
from unitok_jax.training.workdir import (
    origins_of,
    parts_of,
    read_workdir,
    step_number,
    stored_leaves,
    workdir_hash,
    workdir_of,
)
from unitok_jax.weights.meter import Meter, Metered
from unitok_jax.weights.orbax_stream import StoredLeaf
from unitok_jax.weights.rules import Table
from unitok_jax.weights.safetensors_files import DIFFUSERS, MODEL, save_file, save_folder
from unitok_jax.weights.source import Source
from unitok_jax.weights.torch_writer import save_torch
from unitok_jax.weights.transfer import export_tree, nested, size_of
from unitok_jax.weights.whole import whole_folder

TOLD = "unitok.json"  # what `unitok verify` needs to build our side of an export
TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}


@dataclasses.dataclass(frozen=True)
class Written:
    """One artefact of an export.

    Attributes:
        layout: how it was written.
        tensors, parameters: how many.
        parts: of the run, that it holds.
    """

    layout: Layout
    tensors: int
    parameters: int
    parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        written: the artefacts.
        left: parts of the run that the format has no place for, or only in part.
    """

    written: tuple[Written, ...]
    left: tuple[str, ...]


def export_checkpoint(
    place: str, out: Path, *, form: str, max_shard: int = 5_000_000_000, dtype: str | None = None
) -> Exported:
    """Writes the last step of a run, or an import, and a model card beside it.

    Args:
        place: a workdir, a step's directory, or an imported folder.
        out: the folder to make; it takes its name when it is whole.
        form: a format in `systems.release.FORMATS`.
        max_shard: bytes of a safetensors file.
        dtype: of what is written, a name in `TYPES`; by default each parameter's own.

    Raises:
        UserError: for whatever does not fit, and for a full disk.
    """
    if dtype is not None and dtype not in TYPES:
        raise UserError(f"--dtype {dtype}: expected {', '.join(TYPES)}")
    if form not in FORMATS:
        raise UserError(f"--format {form}: expected {' or '.join(FORMATS)}")
    step = find_step(place)
    workdir = Path(workdir_of(step))
    config, leaves = read_workdir(workdir), stored_leaves(step)
    system = base.build(config.system, config.model)
    layouts = release_of(config.system).layouts(system, parts_of(leaves), form)
    if not layouts:
        held = ", ".join(parts_of(leaves))
        raise UserError(f"{place}: has {held}, which format {form} has no place for; try another --format")
    sources = [_source(leaves, system.artefacts[each.artefact], dtype) for each in layouts]
    with whole_folder(out, sum(map(size_of, sources))) as folder:
        meter = Meter("exported", sum(map(size_of, sources)))
        for layout, source in zip(layouts, sources, strict=True):
            _write(Metered(source, meter), layout, folder / layout.folder, max_shard)
            kept = kept_files(workdir, layout.artefact, system.artefacts)
            _documents(layout, folder / layout.folder, kept, f"{config.system}_")
        meter.close()
        done = _told(layouts, sources, system.artefacts, leaves)
        told = workdir, step_number(step)
        (folder / TOLD).write_text(json.dumps(_run_of(config, done, *told), indent=2) + "\n")
        (folder / "README.md").write_text(_card(config, done, form, *told))
    return done


def _source(leaves: Mapping[str, StoredLeaf], table: Table, dtype: str | None) -> Source:
    parts = [part for part in table.parts if part in parts_of(leaves)]
    held = {path: leaves[path] for path in sorted(leaves) if path.split("/")[0] in parts}
    return export_tree(table.only(*parts), nested(held), TYPES[dtype] if dtype else None)


def _write(source: Source, layout: Layout, folder: Path, max_shard: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if layout.file.endswith(".safetensors"):
        save_file(source, folder / layout.file)
    elif layout.file:
        save_torch(source, folder / layout.file, layout.entry, layout.beside)
    else:
        diffusers = "_class_name" in json.loads(layout.documents.get("config.json", "{}"))
        save_folder(source, folder, max_shard, DIFFUSERS if diffusers else MODEL)


def _documents(layout: Layout, folder: Path, kept: Mapping[str, Path], own: str) -> None:
    """The artefact's other files; what stood beside the published checkpoint goes before what we would say.

    Keys that begin with `own` are ours, which a checkpoint has from an earlier export of another run.
    """
    for name, text in layout.documents.items():
        if name in kept and name.endswith(".json"):
            ours = json.loads(text)
            told = {**ours, **json.loads(kept[name].read_text())}
            told |= {key: value for key, value in ours.items() if key.startswith(own)}
            text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (folder / name).write_text(text)
    for name, path in kept.items():
        if name not in layout.documents:
            shutil.copyfile(path, folder / name)


def _told(
    layouts: Sequence[Layout], sources: Sequence[Source], tables: Mapping[str, Table], leaves: Mapping[str, StoredLeaf]
) -> Exported:
    written, whole = [], set()
    for layout, source in zip(layouts, sources, strict=True):
        table, keys = tables[layout.artefact], tuple(source.keys())
        parts = tuple(part for part in table.parts if part in parts_of(leaves))
        whole |= {path for path in leaves if path.split("/")[0] in parts and not table.lacks(path)}
        written.append(Written(layout, len(keys), sum(int(np.prod(source.shape(key))) for key in keys), parts))
    left = tuple(dict.fromkeys("/".join(path.split("/")[:2]) for path in leaves if path not in whole))
    return Exported(tuple(written), _shortened(left, parts_of(leaves), whole))


def _shortened(left: Sequence[str], parts: Sequence[str], whole: set[str]) -> tuple[str, ...]:
    """``adapter`` in the place of all that lies in it, where nothing of it was written."""
    untouched = [part for part in parts if not any(path.startswith(f"{part}/") for path in whole)]
    return (*untouched, *(path for path in left if path.split("/")[0] not in untouched))


def _run_of(config: TrainConfig, done: Exported, workdir: Path, step: int | None) -> dict[str, Any]:
    rows = []
    for each in done.written:
        layout = each.layout
        where = {"folder": layout.folder, "file": layout.file}
        rows.append({"artefact": layout.artefact, **where, "parts": list(each.parts)})
    model = _names_alone(json.loads(json.dumps(config.model, default=dict)))
    told = {"system": config.system, "stage": config.stage, "stage_options": dict(config.stage_options), "model": model}
    return {**told, "step": step, "config hash": workdir_hash(workdir), "artefacts": rows}


def _names_alone(settings: Any) -> Any:
    """Settings without the folders of files, which say nothing to others."""
    if isinstance(settings, dict):
        return {key: _names_alone(value) for key, value in settings.items()}
    return Path(settings).name if isinstance(settings, str) and Path(settings).is_file() else settings


def _card(config: TrainConfig, done: Exported, form: str, workdir: Path, step: int | None) -> str:
    rows: list[dict[str, Any]] = [
        {
            "folder": each.layout.folder or ".",
            "artefact": each.layout.artefact,
            "parts": ", ".join(each.parts),
            "tensors": each.tensors,
            "parameters": each.parameters,
            "loads": each.layout.loads,
        }
        for each in done.written
    ]
    origins = origins_of(workdir, config)
    return model_card(
        config.system,
        config.stage,
        form,
        step,
        rows,
        done.left,
        {part: origin for part, origin in origins.items() if not Path(origin).exists()},
        config_hash=workdir_hash(workdir),
        data=[] if step is None else list(map(source_line, config.data.get("train", ()))),
        metrics=last_metrics(workdir, step),
    )
