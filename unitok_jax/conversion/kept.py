"""The files that stood beside a published checkpoint, found again from whatever was trained on it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from unitok_jax.conversion.importing import PUBLISHED, beside
from unitok_jax.training.checkpoints import find_step
from unitok_jax.training.workdir import read_workdir, workdir_of
from unitok_jax.weights.artefacts import recognise
from unitok_jax.weights.containers import open_source
from unitok_jax.weights.rules import Table

TEXT_TOKENIZER = ("tokenizer", "text_tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template")


def kept_files(workdir: Path, artefact: str, tables: Mapping[str, Table]) -> dict[str, Path]:
    """What an export of `artefact` can give back: configs and tokenizer files, by name.

    A run has what the origin of the artefact's first part has (`init_from`), as far back as folders on this machine
    tell; hub ids are not asked for. From another artefact with that part (Lumina-mGPT, under a UniToken trained on it)
    only the text tokenizer's files fit.

    Args:
        workdir: of a run, or an import.
        artefact: what is to be exported.
        tables: the system's artefacts.
    """
    part = tables[artefact].parts[0]
    for name, files in _back(workdir, part, tables):
        if name == artefact:
            return files
        if tables[name].parts[0] == part:
            return {file: path for file, path in files.items() if file.startswith(TEXT_TOKENIZER)}
    return {}


def _back(workdir: Path, part: str, tables: Mapping[str, Table]) -> Iterator[tuple[str, dict[str, Path]]]:
    """(artefact, its files) of a folder and of those that `part` came from, the nearest first."""
    seen: set[Path] = set()
    while workdir.resolve() not in seen:
        seen.add(workdir.resolve())
        if not _ours(workdir):
            yield from _published(workdir, part, tables)
            return
        for folder in sorted((workdir / PUBLISHED).glob("*")):
            if folder.name in tables:
                yield folder.name, beside(folder)
        origin, _, theirs = read_workdir(workdir).init_from.get(part, "").partition("#")
        part = theirs or part
        if not origin or not Path(origin).exists():
            return
        workdir = Path(workdir_of(find_step(origin))) if _ours(Path(origin)) else Path(origin)


def _ours(folder: Path) -> bool:
    """Whether a folder is a run's, a step's of one, or an import's."""
    return (folder / "checkpoints").exists() or (folder / "params").exists()


def _published(place: Path, part: str, tables: Mapping[str, Table]) -> Iterator[tuple[str, dict[str, Path]]]:
    name = recognise(tables, open_source(place), (part,), str(place))
    yield name, beside(place)
