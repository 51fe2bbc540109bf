"""HTTP requests that end at a set time, however slowly a server answers, and follow only valid redirects."""

import functools
import io
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

_MAX_REDIRECTS = 10


class RefusedError(Exception):
    """A source offers something other than the file; trying again is of no use."""


def check_address(address: str) -> None:
    """Check that an address is a valid HTTP URL.

    Raises:
        RefusedError: It is not.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port  # raises if it is not a number
        host.encode("idna")
        address.encode()
    except ValueError:  # includes UnicodeError
        raise RefusedError("it is not a valid address") from None
    if parts.scheme not in ("http", "https"):
        raise RefusedError("it is not a web address")
    if not host or not address.isprintable():
        raise RefusedError("it is not a valid address")


class TimedSession(requests.Session):
    """Reads responses until `ends`, a time of the monotonic clock; a socket's own timeout restarts with each piece."""

    def __init__(self, ends: float) -> None:
        super().__init__()
        self.ends = ends
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self))

    def get_redirect_target(self, _: requests.Response) -> None:
        """Follow no redirects: `requests` would read their bodies, which may be endless."""

    @contextmanager
    def follow(
        self, address: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> Iterator[requests.Response]:
        """Send a GET request and follow redirects."""
        for _ in range(_MAX_REDIRECTS):
            with self.get(address, headers=headers, stream=True, timeout=timeout) as response:
                if not response.is_redirect:
                    yield response
                    return
                try:
                    address = urljoin(address, response.headers["Location"].encode("latin-1").decode())
                    check_address(address)
                except (ValueError, RefusedError):
                    raise RefusedError("the server redirects to an address that is not valid") from None
        raise RefusedError("the server redirects in a circle")


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, session: TimedSession) -> None:
        super().__init__()
        self._answer = functools.partial(_Response, session)

    def get_connection_with_tls_context(self, *values: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*values, **named)
        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": self._answer})
        return pool


class _Response(HTTPResponse):
    """Reads everything until the session's end: headers, `100 Continue`, a proxy's response and the body."""

    def __init__(self, session: TimedSession, sock: socket.socket, *values: Any, **named: Any) -> None:
        super().__init__(sock, *values, **named)
        self.fp = io.BufferedReader(_Reader(session, sock, self.fp))


class _Reader(io.RawIOBase):
    def __init__(self, session: TimedSession, connection: socket.socket, file: io.BufferedIOBase) -> None:
        self._session, self._connection, self._file = session, connection, file.detach()
        self._timeout = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._session.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if self._timeout is None else min(left, self._timeout))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
