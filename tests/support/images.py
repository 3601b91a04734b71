"""A registry of images on this machine: as much of its protocol as a pull needs, and what can go wrong with one."""

import gzip
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.docker import busybox_archive
from support.waiting import PATIENCE_S

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MANIFEST_PATH = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_BLOB_PATH = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class ImageRegistry:
    """Serves every image that was added to it, over plain HTTP, which engines take from 127.0.0.1 alone."""

    def __init__(self) -> None:
        archive = busybox_archive()
        self._layer = gzip.compress(archive, 1)
        self._layer_of_files = digest_of(archive)
        self._blobs = {digest_of(self._layer): self._layer}
        self._manifests: dict[str, bytes] = {}
        self._gates: dict[str, threading.Event] = {}
        self._broken: set[str] = set()
        self.asked = Counter[str]()
        """How often the configuration of an image was fetched: once a pull."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(*registry.answer(self.path))

            def do_HEAD(self) -> None:
                status, kind, data = registry.answer(self.path)
                self._answer(status, kind, data, is_head=True)

            def _answer(self, status: int, kind: str, data: bytes, *, is_head: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
                if status == 200:
                    self.send_header("Docker-Content-Digest", digest_of(data))
                self.end_headers()
                if not is_head:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    # Who has been cut off in the middle of a pull.
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        """Host and port, with which the names of its images begin."""
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop it."""
        for gate in self._gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, *, says: str = "", held: bool = False, broken: bool = False) -> str:
        """Add an image, or put another in its place; return how to name it.

        It runs a command that prints what it `says`. One that is held is not answered for before it is released; of one
        that is broken a part is never to be had.
        """
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["echo", says], "Env": ["PATH=/bin"], "Labels": {"image": f"{name} {says}"}},
                "rootfs": {"type": "layers", "diff_ids": [self._layer_of_files]},
                "history": [{"created_by": "tests"}],
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(config),
                    "digest": digest_of(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "size": len(self._layer),
                        "digest": digest_of(self._layer),
                    }
                ],
            }
        ).encode()
        self._blobs[digest_of(config)] = config
        self._manifests[name] = manifest
        if held:
            self._gates[name] = threading.Event()
        if broken:
            self._broken.add(name)
        return f"{self.host}/{name}:latest"

    def release(self, name: str) -> None:
        """Answer for an image from now on."""
        self._gates[name].set()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a request."""
        if path == "/v2/":
            return 200, "application/json", b"{}"
        if match := _MANIFEST_PATH.fullmatch(path):
            return self._manifest(match["name"], match["reference"])
        match = _BLOB_PATH.fullmatch(path)
        if match is None or match["digest"] not in self._blobs or match["name"] in self._broken:
            return 404, "application/json", b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}'
        blob = self._blobs[match["digest"]]
        if blob is not self._layer:
            self.asked[match["name"]] += 1
            if gate := self._gates.get(match["name"]):
                gate.wait(PATIENCE_S)
        return 200, "application/octet-stream", blob

    def _manifest(self, name: str, reference: str) -> tuple[int, str, bytes]:
        manifest = self._manifests.get(name)
        if manifest is None or (reference != "latest" and reference != digest_of(manifest)):
            text = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
            return 404, "application/json", text
        return 200, MANIFEST, manifest


@pytest.fixture(scope="session")
def image_registry() -> Iterator[ImageRegistry]:
    """Yield a registry of images."""
    registry = ImageRegistry()
    try:
        yield registry
    finally:
        registry.close()
