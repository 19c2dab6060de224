"""`unitok import`: published checkpoints become one folder that training starts from and the other commands use."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from unitok_jax.errors import UserError
from unitok_jax.systems import base
from unitok_jax.systems.release import Found, release_of
from unitok_jax.training.config import read_config
from unitok_jax.training.workdir import WORKDIR
from unitok_jax.weights.artefacts import recognise
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.hub import locate, takes_revision
from unitok_jax.weights.meter import Meter
from unitok_jax.weights.orbax_stream import save_leaves
from unitok_jax.weights.rules import Table
from unitok_jax.weights.transfer import Incoming, incoming
from unitok_jax.weights.whole import whole_folder

PUBLISHED = "published"  # folder of what stood beside the tensors, by artefact
BESIDE = (".json", ".yaml", ".txt", ".model")
LARGEST = 50_000_000  # bytes of such a file
SETTINGS = ("config.json", "params.json")


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        config: as in the folder.
        parts: part -> the checkpoint that it came from.
        artefacts: artefact -> the checkpoint that it is.
        notes: what the checkpoints leave open and how it was taken, a line each.
    """

    config: dict[str, Any]
    parts: dict[str, str]
    artefacts: dict[str, str]
    notes: tuple[str, ...]


def find(place: str, revision: str | None = None) -> Found:
    """Opens a published checkpoint: a local file or folder, or a hub id.

    Raises:
        UserError: if there is none, or it is broken.
    """
    located = locate(place, revision)
    folder = located.path if located.path.is_dir() else located.path.parent
    settings: Mapping[str, Any] = {}
    for name in SETTINGS:
        if (folder / name).exists():
            settings = _json(folder / name)
            break
    source = open_source(located.path)
    return Found(located.name, located.path, source, {**settings, **getattr(source, "told", {})})


def import_checkpoints(
    places: Sequence[str],
    out: Path,
    *,
    system: str,
    variant: str = "auto",
    vocabulary: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Imported:
    """Writes ``config.json``, the parameters, and what stood beside the checkpoints.

    Types stay what they are. Nothing is held but the layer being copied.

    Args:
        places: checkpoints that together hold the parts; each a file, a folder or a hub id.
        out: the folder to make.
        system: its name.
        variant: what the checkpoints are, a name in the system's ``release.VARIANTS``, or ``auto``.
        vocabulary: the text tokenizer's file, where it does not stand beside a checkpoint.
        recipe: a config as plain JSON that says the model, in the place of what the checkpoints tell.
        revision: of those hub ids that name none; files beside them have none.

    Raises:
        UserError: naming the checkpoint and the key, for whatever does not fit; then `out` is not made.
    """
    if revision and not any(map(takes_revision, places)):
        raise UserError(f"--revision {revision}: belongs to a hub id that names none, and there is none among these")
    found = [find(place, revision) for place in places]
    config, tokenizer, notes = _config(found, system, variant, vocabulary, recipe)
    leaves, artefacts, missing = _pair(found, config)
    with whole_folder(out, sum(leaf.nbytes for leaf, _ in leaves.values())) as folder:
        parts = {path.split("/")[0]: each.where for path, (_, each) in leaves.items()}
        anchored = _anchored(config, tokenizer, folder)
        plain = {**anchored, "init_from": parts, "fresh": missing}
        (folder / "config.json").write_text(json.dumps(plain, indent=1, sort_keys=True, default=list))
        _copy_beside(artefacts, folder / PUBLISHED)
        meter = Meter("imported", sum(leaf.nbytes for leaf, _ in leaves.values()))
        save_leaves({path: leaf for path, (leaf, _) in leaves.items()}, folder / "params", meter.add)
        meter.close()
    if missing:
        notes = (*notes, f"no checkpoint holds {', '.join(missing)}")
    return Imported(plain, parts, {name: each.where for name, each in artefacts.items()}, notes)


def _config(
    found: Sequence[Found], system: str, variant: str, vocabulary: str | None, recipe: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Path | None, tuple[str, ...]]:
    """The folder's config, the tokenizer file that goes with it, and what had to be guessed."""
    if recipe is not None:
        if recipe["system"] != system:
            raise UserError(f"--system {system}: the recipe is for {recipe['system']}")
        return dict(recipe), None, ()
    release = release_of(system)
    file = Path(vocabulary) if vocabulary else release.vocabulary_of(found)
    told, notes = release.recipe(found, variant, str(file) if file else None)
    empty = {"steps": 1, "data": {}, "optimizer": {}}  # it is never trained itself: recipes start from it
    return {**empty, **told}, file, notes


def _anchored(config: dict[str, Any], tokenizer: Path | None, folder: Path) -> dict[str, Any]:
    """The config with the tokenizer's file inside the folder, so that both may be moved together."""
    if tokenizer is None:
        return config
    shutil.copyfile(tokenizer, folder / tokenizer.name)
    inside = f"{WORKDIR}/{tokenizer.name}"
    model = {key: inside if value == str(tokenizer) else value for key, value in config["model"].items()}
    return {**config, "model": model}


Leaves = dict[str, tuple[Incoming, Found]]


def _pair(found: Sequence[Found], config: Mapping[str, Any]) -> tuple[Leaves, dict[str, Found], tuple[str, ...]]:
    """Every parameter with the checkpoint that it comes from; the artefacts; the parts that none holds."""
    typed, _ = read_config(config)
    system = base.build(typed.system, typed.model)
    stage = base.build_stage(system, typed.stage, typed.stage_options)
    wanted = jax.eval_shape(stage.init, jax.random.key(0))[0]
    leaves: Leaves = {}
    artefacts: dict[str, Found] = {}
    for each in found:
        name = recognise(system.artefacts, each.source, (), each.where)
        for path, leaf in _leaves_of(each, system.artefacts[name], wanted).items():
            if path in leaves:
                where = leaves[path][1].where
                raise UserError(f"{each.where}: holds {path.split('/')[0]}, which {where} holds too; give one of them")
            leaves[path] = leaf, each
        artefacts[name] = each
    return leaves, artefacts, tuple(part for part in wanted if not any(p.startswith(f"{part}/") for p in leaves))


def _leaves_of(found: Found, table: Table, wanted: Mapping[str, Any]) -> dict[str, Incoming]:
    """What a checkpoint gives of the parts that it holds whole."""
    held = [part for part in table.parts if part in wanted and not _partly(table, part)]
    if not held:
        raise UserError(f"{found.where}: holds {', '.join(table.parts)}; this stage takes {', '.join(wanted)}")
    try:
        parts = {part: wanted[part] for part in held}
        return incoming(table.only(*held), found.source, parts, as_stored=True)
    except UserError as error:
        raise UserError(f"{found.where}: {error}") from None


def _partly(table: Table, part: str) -> bool:
    return any(regex.replace("\\", "").startswith(f"{part}/") for regex in table.absent)


def _copy_beside(artefacts: Mapping[str, Found], folder: Path) -> None:
    """Keeps configs and tokenizer files, which an export of the same artefact gives back."""
    for name, found in artefacts.items():
        for file, path in beside(found.folder).items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name / file)


def beside(folder: Path) -> dict[str, Path]:
    """Configs and tokenizer files in a published checkpoint's folder by name; none where it is a lone file."""
    files = sorted(folder.iterdir()) if folder.is_dir() else ()
    return {file.name: file for file in files if _is_kept(file)}


def _is_kept(file: Path) -> bool:
    named = file.suffix in BESIDE and not file.name.endswith(".index.json")
    return named and file.is_file() and file.stat().st_size <= LARGEST


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); download it again") from None
