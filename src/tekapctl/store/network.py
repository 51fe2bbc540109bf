"""Network access: a guard against any, and HTTP requests that end in time and fail in plain words."""

import functools
import http.client
import io
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from tekapctl.errors import UsageError

_MAX_REDIRECTS = 10
_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class RefusedError(Exception):
    """A source offers something other than the file; trying again is of no use."""


class BrokenError(Exception):
    """A download failed; trying again may help."""


class OfflineError(UsageError):
    """The network is needed but forbidden."""


class _Guard:
    """Refuses connections while `forbidden_for` is not empty."""

    def __init__(self) -> None:
        self.forbidden_for: list[str] = []
        self._is_installed = False

    def install(self) -> None:
        # Audit hooks cannot be removed, so a single one is installed.
        if not self._is_installed:
            sys.addaudithook(self._check)
            self._is_installed = True

    def _check(self, event: str, values: tuple[object, ...]) -> None:
        if self.forbidden_for and event in _NETWORK_EVENTS:
            is_local = hasattr(socket, "AF_UNIX") and getattr(values[0], "family", None) == socket.AF_UNIX
            if not is_local:
                raise OfflineError(
                    f"{self.forbidden_for[-1]} needs the network, and --offline forbids it.",
                    "Leave out --offline, or name a file or folder with --from.",
                )


_GUARD = _Guard()


@contextmanager
def no_network(what: str) -> Iterator[None]:
    """In this block, no thread and no library can open a connection or look up a host.

    Args:
        what: What runs without the network, for the error.

    Raises:
        OfflineError: Something tried to use the network.
    """
    _GUARD.install()
    _GUARD.forbidden_for.append(what)
    try:
        yield
    finally:
        _GUARD.forbidden_for.pop()


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


@contextmanager
def request(
    session: requests.Session, address: str, headers: Mapping[str, str], timeout: tuple[float, float]
) -> Iterator[requests.Response]:
    """Send a GET request and follow redirects, without reading their bodies."""
    for _ in range(_MAX_REDIRECTS):
        with session.get(address, headers=dict(headers), stream=True, timeout=timeout) as response:
            if not response.is_redirect:
                yield response
                return
            address = _redirected(address, response.headers["Location"])
    raise RefusedError("the server redirects in a circle")


def _redirected(address: str, location: str) -> str:
    try:
        found = urljoin(address, location.encode("latin-1").decode())
        check_address(found)
    except (ValueError, RefusedError):
        raise RefusedError("the server redirects to an address that is not valid") from None
    return found


class Deadline:
    """When to give up.

    Attributes:
        ends: A time of the monotonic clock.
    """

    def __init__(self, ends: float) -> None:
        self.ends = ends


class _Reader(io.RawIOBase):
    """Reads from a socket until a deadline; a socket's own timeout restarts with each piece."""

    def __init__(self, deadline: Deadline, connection: socket.socket, file: io.BufferedIOBase) -> None:
        self._deadline, self._connection, self._file = deadline, connection, file.detach()
        self._timeout = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if self._timeout is None else min(left, self._timeout))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that is read until a deadline: headers, `100 Continue`, a proxy's response and the body."""

    def __init__(self, deadline: Deadline, sock: socket.socket, *values: Any, **named: Any) -> None:
        super().__init__(sock, *values, **named)
        self.fp = io.BufferedReader(_Reader(deadline, sock, self.fp))


class _Adapter(requests.adapters.HTTPAdapter):
    """Reads responses until a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._answer = functools.partial(_Response, deadline)

    def get_connection_with_tls_context(self, *values: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*values, **named)
        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": self._answer})
        return pool


class DeadlineSession(requests.Session):
    """Reads responses until a deadline and does not follow redirects, since requests would read their bodies."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(deadline))

    def get_redirect_target(self, _: requests.Response) -> None:
        """Follow no redirects."""


_WORDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError),
        "the proxy refused or cannot be reached",
    ),
    ((ssl.SSLError, urllib3.exceptions.SSLError), "the TLS connection failed"),
    ((urllib3.exceptions.NameResolutionError,), "its host is unknown"),
    ((urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError), "the connection failed"),
    ((TimeoutError, urllib3.exceptions.TimeoutError), "the server did not answer in time"),
    ((ConnectionError,), "the server closed the connection"),
    (
        (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead, urllib3.exceptions.InvalidChunkLength),
        "the server stopped sending or violated HTTP",
    ),
    (
        (http.client.HTTPException, urllib3.exceptions.ProtocolError, urllib3.exceptions.InvalidHeader),
        "the server violated HTTP",
    ),
)


_LIBRARIES = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException)


@contextmanager
def translating_http_errors() -> Iterator[None]:
    """Translate errors of the HTTP libraries."""
    try:
        yield
    except ValueError as error:  # an invalid address, scheme or header; some are RequestExceptions too
        raise RefusedError(_words(error)) from None
    except (*_LIBRARIES, ConnectionError, TimeoutError) as error:
        raise BrokenError(_words(error)) from None


def _words(error: BaseException) -> str:
    chain = list(_chain(error))
    for kinds, words in _WORDS:
        if any(isinstance(each, kinds) for each in chain):
            return words
    return next(iter(str(error).splitlines()), type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that it wraps."""
    yield error
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            yield from _chain(inner)
