"""A real HTTP server on loopback that serves a folder, well or badly."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """`/MISCHIEF/NAME` serves the file NAME with a mischief; `/ok/NAME` serves it well."""

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        _, mischief, *rest = self.path.split("/")
        self.server.requests.append((self.path, self.headers.get("Range")))
        path = self.server.folder / "/".join(rest)
        if mischief == "redirects":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return None
        if mischief == "broken":
            self.send_error(503)
            return None
        if mischief == "page":
            return self._send(b"<html>gone</html>", kind="text/html; charset=utf-8")
        if not path.is_file():
            self.send_error(404)
            return None
        content = path.read_bytes()
        start = self._start(len(content)) if mischief in ("ok", "cut") else 0
        if mischief == "cut" and not start:
            return self._send(content[: len(content) // 2], length=len(content))
        if mischief == "dribble":
            return self._dribble(content)
        if mischief == "short":
            return self._send(content[:-1], length=len(content))
        if mischief == "other":
            return self._send(bytes(len(content)))
        if mischief == "endless":
            return self._send(content * 100, length=None)
        return self._send(content[start:], start=start, total=len(content))

    def _dribble(self, content: bytes) -> None:
        """A few bytes at a time, for ever but for the listener's patience."""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        for start in range(0, len(content), 50):
            try:
                self.wfile.write(content[start : start + 50])
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.02)

    def _start(self, size: int) -> int:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        return start if start < size else 0

    def _send(self, body: bytes, *, length: int | None = -1, start: int = 0, total: int = 0, kind: str = "") -> None:
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind or "application/octet-stream")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass


@contextmanager
def serving(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """The server; `server.address` is its URL, `server.requests` what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.requests = folder, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
