"""A server on this machine for tests of downloads: it cuts, lies and refuses."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`, with ranges; closes the connection once `cut` bytes of a first answer have been sent."""

    body, status, kind = b"", 200, "application/zip"
    cut: int | None = None

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/a.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else server.status)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(server.body) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.end_headers()
        cut, server.cut = server.cut, None if wanted else server.cut
        self.wfile.write(server.body[start : len(server.body) if cut is None else cut])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, its address in `url`; no proxy stands before it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
