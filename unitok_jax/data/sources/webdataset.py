"""WebDataset shards: tar files whose members of one stem make a record, read at random."""

import dataclasses
import json
import logging
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from unitok_jax.data import files
from unitok_jax.errors import UserError

Member = tuple[str, int, int]  # extension, first byte of the content, length
log = logging.getLogger(__name__)


@dataclasses.dataclass
class Source:
    """Pictures (jpg, jpeg, png, webp) with ``txt`` (the caption), ``json`` (fields) and ``cls`` (the label) by stem.

    A stem reaches up to the first dot of a member's last name. Other members are ignored.

    Attributes:
        path: an uncompressed tar file, or a glob such as ``shards/*.tar``.
        index: a folder that keeps the members' places between runs; by default each run reads the tar headers anew.
    """

    path: str
    index: str | None = None

    def __post_init__(self):
        self._shards = files.matching(self.path, "webdataset")
        self._records = [
            (number, stem, members)
            for number, shard in enumerate(self._shards)
            for stem, members in _index(shard, epath.Path(self.index) if self.index else None)
        ]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, stem, members = self._records[index]
        shard = self._shards[number]
        record: dict[str, Any] = {"id": f"{shard.name}/{stem}"}
        for extension, start, length in sorted(members, key=lambda member: member[0] != "json"):
            content = files.read_span(shard, start, length)
            record.update(READERS[extension](content, f"{record['id']}.{extension}"))
        return record


def _image(content: bytes, name: str) -> dict[str, Any]:
    return {"image": content}


def _text(content: bytes, name: str) -> dict[str, Any]:
    return {"caption": content.decode("utf-8", errors="replace").strip()}


def _label(content: bytes, name: str) -> dict[str, Any]:
    return {"label": content.decode("utf-8", errors="replace").strip()}


# JSON is read first, so that a caption in a file of its own wins over one among the fields.
READERS: dict[str, Callable[[bytes, str], dict[str, Any]]] = {
    "json": files.json_object,
    "txt": _text,
    "cls": _label,
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), _image),
}


def _index(shard: epath.Path, folder: epath.Path | None) -> list[tuple[str, list[Member]]]:
    """Stems of a shard with their members' places; from `folder` if they are known for a file of this size."""
    if folder is None:
        return _scan(shard)
    size = shard.stat().length
    kept = folder / f"{shard.name}.index.json"
    if kept.exists() and (known := _known(kept, size)) is not None:
        return known
    records = _scan(shard)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(kept, json.dumps({"bytes": size, "records": records}).encode())
    return records


def _known(kept: epath.Path, size: int) -> list[tuple[str, list[Member]]] | None:
    """A kept index; None for one of another file, or a broken one."""
    try:
        known = json.loads(kept.read_text())
        if known["bytes"] == size:
            return [(stem, [tuple(member) for member in members]) for stem, members in known["records"]]
    except (ValueError, KeyError, TypeError):
        log.warning("webdataset: %s is broken and made anew", kept)
    return None


def _scan(shard: epath.Path) -> list[tuple[str, list[Member]]]:
    """The members of a shard by stem. One that is cut short keeps what came before the cut.

    A member that the cut goes through is listed; reading it says that it is bad.
    """
    records: dict[str, list[Member]] = {}
    with shard.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in _members(tar):
                    folder, base = posixpath.split(member.name)
                    stem, _, extension = base.partition(".")
                    if member.isfile() and extension.lower() in READERS:
                        place = (extension.lower(), member.offset_data, member.size)
                        records.setdefault(posixpath.join(folder, stem), []).append(place)
                end = tar.offset
        except tarfile.TarError as error:
            reason = f"is no uncompressed tar file: {error}. Unpack .gz shards first."
            raise UserError(f"webdataset: {shard} {reason}") from None
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a whole tar file ends with empty blocks
            log.warning("webdataset: %s is cut short or broken after %d records: copy it again", shard, len(records))
    return list(records.items())


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """What can be listed: the first header has been read, so what fails later is a cut."""
    try:
        yield from tar
    except tarfile.ReadError:
        return
