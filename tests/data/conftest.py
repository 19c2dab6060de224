import uuid

import memory_bucket
import pytest


@pytest.fixture
def bucket(monkeypatch):
    """A bucket's address whose contents lie in memory."""
    memory_bucket.install(monkeypatch)
    return f"s3://{uuid.uuid4().hex}"
