"""A bucket in memory: for epath through fsspec, for TensorStore's own GCS client over HTTP."""

import contextlib
import http.server
import json
import threading
import urllib.parse
import zlib
from collections.abc import Iterator

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem


class MemoryBucket(MemoryFileSystem):
    """fsspec's memory behind bucket addresses, with names as a bucket gives them."""

    protocol = ("s3", "gs")
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3://").removeprefix("gs://"))

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]


def install(patch: pytest.MonkeyPatch) -> None:
    """Lets epath find the contents of every bucket in memory."""
    patch.setattr(
        backend.fsspec_backend,
        "_get_filesystem",
        lambda name: fsspec.filesystem("file") if name == "file" else MemoryBucket(),
    )


@contextlib.contextmanager
def gcs_server(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serves the same contents as Google Cloud Storage's JSON API does, as far as TensorStore asks for it."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), _Requests)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"localhost:{server.server_port}"
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://{address}")
    patch.setenv("GCE_METADATA_ROOT", address)  # has no credentials to give: TensorStore goes on without
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = MemoryFileSystem.store  # path -> file, shared by all of fsspec's memory

    def do_GET(self) -> None:
        key, query = self._read()
        if key is None:
            return self._answer(404)
        if key.endswith("/o"):
            return self._list(key.removesuffix("/o"), query)
        if key not in self.store:
            return self._answer(404)
        content = self.store[key].getvalue()
        if query.get("ifGenerationNotMatch") == str(_generation(content)):
            return self._answer(304)
        if query.get("alt") != "media":
            return self._answer(200, self._described(key))
        first, last = 0, len(content)
        if span := self.headers.get("Range"):
            low, _, high = span.removeprefix("bytes=").partition("-")
            first, last = (int(low), min(int(high) + 1, last) if high else last) if low else (last - int(high), last)
        extra = {
            "x-goog-generation": str(_generation(content)),
            "Content-Range": f"bytes {first}-{last - 1}/{len(content)}",
        }
        self._answer(206 if span else 200, content[first:last], extra)

    def do_POST(self) -> None:
        key, query = self._read()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if key is None:
            return self._answer(404)
        key = f"{key.removesuffix('/o')}/{query['name']}"
        if self._changed(key, query):
            return self._answer(412)
        self.store[key] = MemoryFile(MemoryBucket(), key, content)
        self._answer(200, self._described(key))

    def do_DELETE(self) -> None:
        key, query = self._read()
        if key not in self.store:
            return self._answer(404)
        if self._changed(key, query):
            return self._answer(412)
        del self.store[key]
        self._answer(204)

    def log_message(self, *args: object) -> None:
        """Nothing is written to the screen."""

    def _read(self) -> tuple[str | None, dict[str, str]]:
        """The object as fsspec calls it, or ``/bucket/o`` for all of them; and the query."""
        path, _, query = self.path.partition("?")
        found = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        _, known, rest = path.partition("/storage/v1/b/")
        if not known:
            return None, found
        bucket, _, name = rest.partition("/o")
        return f"/{bucket}/{urllib.parse.unquote(name[1:])}" if name else f"/{bucket}/o", found

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        keys = sorted(key for key in list(self.store) if key.startswith(f"{bucket}/{query.get('prefix', '')}"))
        low, high = query.get("startOffset", ""), query.get("endOffset")
        names = [key.removeprefix(f"{bucket}/") for key in keys]
        names = [name for name in names if name >= low and (high is None or name < high)]
        items = [json.loads(self._described(f"{bucket}/{name}")) for name in names]
        self._answer(200, json.dumps({"kind": "storage#objects", "items": items}).encode())

    def _described(self, key: str) -> bytes:
        content = self.store[key].getvalue()
        _, bucket, name = key.split("/", 2)
        when = "2026-01-01T00:00:00Z"
        fields = {"kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(content))}
        fields |= {"generation": str(_generation(content)), "timeCreated": when, "updated": when}
        return json.dumps(fields).encode()

    def _changed(self, key: str, query: dict[str, str]) -> bool:
        wanted = query.get("ifGenerationMatch")
        found = str(_generation(self.store[key].getvalue())) if key in self.store else "0"
        return wanted is not None and wanted != found

    def _answer(self, code: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _generation(content: bytes) -> int:
    """A number that differs as contents do, never 0 (which says that there is no such object)."""
    return zlib.crc32(content) + 1
