"""A dataset repository of the hub on a local port: the two calls that its client makes to list files and get them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_repository(repo: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Yields the address, for HF_ENDPOINT, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            status, headers, body = _find(repo, files, path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _find(repo: str, files: Mapping[str, bytes], path: str) -> tuple[int, dict[str, str], bytes]:
    if path == f"/api/datasets/{repo}/tree/main":
        listed = [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in files.items()]
        return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
    if path.startswith(prefix := f"/api/datasets/{repo}"):
        body = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        return (200, {"Content-Type": "application/json"}, json.dumps(body).encode()) if path == prefix else _MISSING
    name = path.removeprefix(f"/datasets/{repo}/resolve/main/")
    if name not in files:
        return _MISSING
    etag = hashlib.sha1(files[name]).hexdigest()
    return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, files[name]


_MISSING = (404, {"X-Error-Code": "EntryNotFound"}, b"")
