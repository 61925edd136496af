"""A server on this machine for tests of downloads: it cuts, lies and refuses."""

import contextlib
import http.server
import threading


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`, with ranges; closes the connection once `cut` bytes of a first answer have been sent."""

    body, cut, status, kind = b"", None, 200, "application/zip"

    def __init__(self):
        self.ranges = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else server.status)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(server.body) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.end_headers()
        cut, server.cut = server.cut, None if asked else server.cut
        self.wfile.write(server.body[start : len(server.body) if cut is None else cut])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(monkeypatch):
    """A running server, its address in `url`; no proxy stands before it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_address[1]}/a.zip"
        yield running
        running.shutdown()
        thread.join()
