"""Files and folders that take their name only when they are whole."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from unitok_jax.errors import UserError, writing


@contextlib.contextmanager
def whole(path: Path) -> Generator[BinaryIO]:
    """A file to write that takes its name when the block ends well, and is removed when it does not."""
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, size: int = 0) -> Generator[Path]:
    """A folder to fill that takes its name when the block ends well, and is removed when it does not.

    Args:
        path: must not exist yet, or be empty.
        size: bytes that will be written; refused at once where the disk has not the room.

    Raises:
        UserError: for a folder that holds something, a full disk, or one that cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not empty; give another --out, or remove it first")
    temporary = _beside(path.absolute())
    with writing(path):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(temporary.parent).free
        if size > free:
            raise UserError(f"{path}: needs {size / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            yield temporary
            if path.exists():
                path.rmdir()
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
