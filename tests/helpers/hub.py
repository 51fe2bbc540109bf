"""A local server that speaks as much of the Hugging Face hub's protocol as an upload needs."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.server import in_thread

TOKEN = "hf_token_of_ada"
"""The one token that the server knows."""


class Hub(ThreadingHTTPServer):
    """The hub, on a free port.

    Attributes:
        files: What was committed, by path.
        created: The requests that created repositories.
        commits: Number of commits.
        validated: The cards that were sent for validation.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.commits = 0
        self.validated: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid user token."})
        if self.path.startswith("/api/whoami"):
            return self._send(200, {"name": "ada", "type": "user", "orgs": [], "auth": {"accessToken": {}}})
        return self._send(404, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            self.server.validated.append(json.loads(content)["content"])
            return self._send(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(content))
            return self._send(200, {"url": f"{self.server.address}/ada/digits", "name": "ada/digits"})
        if "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for each in json.loads(content)["files"]
            ]
            return self._send(200, {"files": files})
        if "/commit/" in self.path:
            self.server.commits += 1
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.address}/ada/digits/commit/{'0' * 40}"
            return self._send(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})
        return self._send(404, {"error": f"nothing at {self.path}"})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def hub() -> Iterator[Hub]:
    """Run the hub in a thread until the block ends."""
    server = Hub()
    with in_thread(server):
        yield server
