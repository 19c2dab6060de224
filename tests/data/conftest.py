import uuid

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class MemoryBucket(MemoryFileSystem):
    """fsspec's memory behind bucket addresses, with names as a bucket gives them."""

    protocol = "s3"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3://"))

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]


@pytest.fixture
def bucket(monkeypatch):
    """A bucket's address whose contents lie in memory."""
    monkeypatch.setattr(
        backend.fsspec_backend,
        "_get_filesystem",
        lambda name: fsspec.filesystem("file") if name == "file" else MemoryBucket(),
    )
    return f"s3://{uuid.uuid4().hex}"
