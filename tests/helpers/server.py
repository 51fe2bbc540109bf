"""A real HTTP server on loopback that serves a folder, well or badly."""

import hashlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RESUMES = ("ok", "cut", "deaf", "weak", "mute", "dated", "fresh")
"""Serve parts of files; all but `ok` break off whole ones in the middle. `deaf` sends a part whatever version is asked
for; `weak`, `mute`, `dated` and `fresh` say less of the version than an ETag."""


class Server(ThreadingHTTPServer):
    """Serves a folder on a free port.

    Attributes:
        requests: The paths that were asked for, with their `Range`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """`/MISCHIEF/NAME` serves the file NAME with a mischief; `/ok/NAME` serves it well."""

    server: Server

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
        version = self._version(mischief, content)
        start = self._start(len(content), version, mischief) if mischief in RESUMES else 0
        if mischief in RESUMES and mischief != "ok" and not start:
            return self._send(content[: len(content) // 2], length=len(content), version=version)
        if mischief == "dribble":
            return self._dribble(content)
        if mischief == "short":
            return self._send(content[:-1], length=len(content))
        if mischief == "other":
            return self._send(bytes(len(content)))
        if mischief == "endless":
            return self._send(content * 100, length=None)
        return self._send(content[start:], start=start, total=len(content), version=version)

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

    def _version(self, mischief: str, content: bytes) -> tuple[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        if mischief == "mute":
            return ("X-Nothing", "said")
        if mischief in ("dated", "fresh"):
            return ("Last-Modified", formatdate(time.time() - 10 if mischief == "fresh" else 1e9, usegmt=True))
        return ("ETag", f'W/"{digest}"' if mischief == "weak" else f'"{digest}"')

    def _start(self, size: int, version: tuple[str, str], mischief: str) -> int:
        asked = self.headers.get("Range", "")
        if not asked or (mischief != "deaf" and self.headers.get("If-Range") != version[1]):
            return 0
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        return start if start < size else 0

    def _send(
        self,
        body: bytes,
        *,
        length: int | None = -1,
        start: int = 0,
        total: int = 0,
        kind: str = "",
        version: tuple[str, str] = ("X-Nothing", "said"),
    ) -> None:
        self.send_response(206 if start else 200)
        self.send_header(*version)
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
def serving(folder: Path) -> Iterator[Server]:
    """The server; `server.address` is its URL, `server.requests` what it was asked."""
    server = Server(folder)
    with in_thread(server):
        yield server


@contextmanager
def in_thread(server: socketserver.BaseServer) -> Iterator[None]:
    """Run a server in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def page(*lines: bytes, body: bytes = b"") -> Callable[[socket.socket], None]:
    """Answers a request with a header of these lines, and a body."""
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])
    return lambda connection: connection.sendall(head + body)


def redirect(location: bytes) -> Callable[[socket.socket], None]:
    """Answers a request with another address to ask."""
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    return lambda connection: connection.sendall(answer)


def forever(begin: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Answers a request with something that never ends."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(piece)
            time.sleep(0.01)

    return answer


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that answers each request with whatever bytes it is told to, HTTP or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        is_over = threading.Event()

        def serve() -> None:
            while not is_over.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(60)
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                answer(connection)
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            is_over.set()
            thread.join()
