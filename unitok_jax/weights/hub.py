"""Finds a checkpoint: a local path, or files of a Hugging Face repository at one commit.

A repository is named ``owner/name``, ``owner/name@revision``, and, for a file or folder inside,
``owner/name@revision:path``. What a branch or tag points at is looked up first, and that commit alone is read. A name
that begins like a folder of ours, such as ``runs/x``, is a hub id only with its revision.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub

from unitok_jax.errors import UserError

NAME = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<inside>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
BESIDE = ("*.json", "*.yaml", "*.txt", "*.model")
TORCH = ("*.pt", "*.pth", "*.ckpt", "*.bin")
FOLDERS = ("ckpts", "checkpoints", "weights", "models", "runs", "imported", "exported", "data", "tokenizer")


@dataclasses.dataclass(frozen=True)
class Located:
    """A checkpoint that is there.

    Attributes:
        path: on this machine.
        name: what it is called in reports: the path as given, or ``owner/name@commit``.
    """

    path: Path
    name: str


def locate(place: str, revision: str | None = None) -> Located:
    """A local path as it is, or a repository's files, downloaded unless the cache has them.

    Args:
        place: see the top of this file.
        revision: branch, tag or commit of a repository, where `place` is one and names none.

    Raises:
        UserError: if there is neither, or the repository cannot be read.
    """
    path, match = Path(place), NAME.fullmatch(place)
    if path.exists():
        return Located(path, place)
    if not match or not is_hub_id(place):
        hint = f" (a hub id of that name needs its revision: {place}@main)" if match and not match["revision"] else ""
        raise UserError(f"{place}: no such file or folder{hint}")
    return _fetch(match["repo"], match["revision"] or revision or "main", match["inside"])


def takes_revision(place: str) -> bool:
    """Whether a place is a hub id that names no revision itself."""
    match = NAME.fullmatch(place)
    return bool(match) and is_hub_id(place) and not match["revision"]


def is_hub_id(place: str) -> bool:
    """Whether a place is a hub id rather than a path, by its looks and what is on the disk: ``runs/x`` is a path."""
    path, match = Path(place), NAME.fullmatch(place)
    if not match or path.exists() or Path(path.parts[0]).is_dir():
        return False
    return bool(match["revision"]) or path.parts[0] not in FOLDERS


def _fetch(repo: str, revision: str, inside: str | None) -> Located:
    try:
        commit, files = _contents(repo, revision)
        wanted = [inside, f"{inside}/*"] if inside else _wanted(files)
        offline = not files
        folder = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=wanted, local_files_only=offline
        )
    except Exception as error:  # the client has many, and they change with its versions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{repo}@{revision}: no such local path, and Hugging Face did not give it ({reason})") from None
    path = Path(folder) / (inside or "")
    if not path.exists():
        raise UserError(f"{repo}@{commit}: has no {inside}")
    return Located(path, f"{repo}@{commit}" + (f":{inside}" if inside else ""))


def _contents(repo: str, revision: str) -> tuple[str, list[str]]:
    """The commit and its files; for a commit that the hub cannot be asked about, no files: the cache must have it."""
    try:
        info = huggingface_hub.HfApi().repo_info(repo, revision=revision)
    except Exception:
        if COMMIT.fullmatch(revision):
            return revision, []
        raise
    return info.sha or revision, [file.rfilename for file in getattr(info, "siblings", None) or ()]


def _wanted(files: Iterable[str]) -> list[str]:
    """Safetensors where there are any, torch files (read without being run) where not; all for the cache to say."""
    names = list(files)
    if names and not any(name.endswith(".safetensors") for name in names):
        return [*TORCH, *BESIDE]
    return ["*.safetensors", *BESIDE] if names else ["*.safetensors", *TORCH, *BESIDE]
