"""A file from a web server that is not trusted: within a deadline, and going on where an earlier download broke off."""

import functools
import http.client
import io
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from tekapctl.store.atomic import atomic_write

Report = Callable[[int, int | None], None]
"""Is told how many bytes are there, and how many there will be if that is known."""

_CHUNK = 1 << 18
_MOST_REDIRECTS = 10
_NOT_NOW = (408, 425, 429)
_SETTLED = timedelta(seconds=60)
"""Age from which a time of modification tells two versions of a file apart (RFC 9110, 8.8.2.2)."""


class RefusedError(Exception):
    """A source gives something else than the file; asking it again is of no use."""


class BrokenError(Exception):
    """A download broke off; asking again may help."""


@dataclass(frozen=True)
class Patience:
    """How long servers are waited for.

    Attributes:
        attempts: How often each source is asked.
        pause: Seconds before the second attempt, doubled for each one after it.
        connect: Seconds to connect.
        silence: Seconds between two pieces.
        answer: Seconds until the whole header of the answer is there.
        slow: Seconds in which a server may be slower than `slowest`.
        slowest: Bytes a second over the whole attempt; slower servers are given up.
        deadline: Seconds for everything that is asked of one source.
    """

    attempts: int = 3
    pause: float = 1.0
    connect: float = 10.0
    silence: float = 30.0
    answer: float = 60.0
    slow: float = 60.0
    slowest: int = 1024
    deadline: float = 6 * 3600.0


@dataclass(frozen=True)
class Part:
    """An unfinished download of one address, with the version of the file that it is of.

    Attributes:
        path: The bytes so far.
    """

    path: Path

    @property
    def note(self) -> Path:
        """The file that says the version."""
        return self.path.with_suffix(".json")

    def known(self) -> tuple[int, str]:
        """How many bytes there are and of which version; none where either is not known."""
        try:
            version = json.loads(self.note.read_text(encoding="utf-8"))["version"]
            have = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0, ""
        return (have, version) if isinstance(version, str) and version else (0, "")

    def begin(self, version: str) -> None:
        """Start over with a version of the file; an empty one cannot be gone on with."""
        self.drop()
        if version:
            atomic_write(self.note, json.dumps({"version": version}).encode())

    def drop(self) -> None:
        """Delete it, bytes first: they are never without their version."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def drop_if_useless(self) -> None:
        """Delete what no later attempt can go on with."""
        if not self.known()[0]:
            self.drop()


def check_address(address: str) -> None:
    """See to it that an address can be asked for.

    Raises:
        RefusedError: It cannot.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port  # raises if it is no number
        host.encode("idna")
        address.encode()
    except ValueError:  # that texts cannot be encoded is one too
        raise RefusedError("it is no address") from None
    if parts.scheme not in ("http", "https"):
        raise RefusedError("it is no address of the web")
    if not host or not address.isprintable():
        raise RefusedError("it is no address")


def get(address: str, part: Part, *, most_bytes: int, report: Report, patience: Patience, ends: float) -> None:
    """Download a file, or what is missing of it.

    Args:
        address: Its address.
        part: Where its bytes go. They are gone on with if the server still has the same version of the file.
        most_bytes: No more than this is ever written.
        report: Is told of the progress.
        patience: How long to wait.
        ends: When to give up, in seconds of the monotonic clock.

    Raises:
        RefusedError: The server has something else than the file.
        BrokenError: The connection broke off; what came so far is kept if it can be gone on with.
    """
    have, version = part.known()
    # Compressed transfer would make lengths and ranges mean something else.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    clock = _Clock(min(ends, time.monotonic() + patience.answer))
    with _in_words(), _Session(clock) as session, _ask(session, address, headers, patience) as response:
        clock.ends = ends
        if response.status_code == 206 and have:
            total: int | None = _check_rest(response.headers, part, have, version)
        elif response.status_code == 416 and have:
            part.drop()
            raise BrokenError("the part at hand does not fit the file")
        elif response.status_code in (200, 203):
            have = 0
            total = _length(response.headers)
        elif response.status_code >= 500 or response.status_code in _NOT_NOW:
            raise BrokenError(f"the server answered {response.status_code}")
        else:
            raise RefusedError(f"the server answered {response.status_code}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise RefusedError("it is a web page, not the file")
        if total is not None and total > most_bytes:
            raise RefusedError(f"it says it has {total:,} bytes, more than {most_bytes:,}")
        if not have:
            part.begin(_version(response.headers))
        _store(response, part, have, total, most_bytes, report, patience)


def _check_rest(headers: Mapping[str, str], part: Part, have: int, version: str) -> int:
    """Make sure that what comes is the rest of the part at hand; returns the length of the whole file."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""), re.ASCII)
    # There are servers that do not know If-Range.
    if found is None or int(found[1]) != have or int(found[2]) + 1 != int(found[3]) or _version(headers) != version:
        part.drop()
        raise BrokenError("the part at hand does not fit the file")
    return int(found[3])


def _length(headers: Mapping[str, str]) -> int | None:
    stated = headers.get("Content-Length")
    if stated is None or "Transfer-Encoding" in headers:
        return None
    if not re.fullmatch(r"\d{1,18}", stated, re.ASCII):
        raise RefusedError("its Content-Length is no number")
    return int(stated)


def _version(headers: Mapping[str, str]) -> str:
    """What tells the version of a file from all others, as If-Range takes it; empty if the server does not say."""
    tag = headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]+"', tag):  # others begin with W/, and are too weak for this
        return tag
    modified = headers.get("Last-Modified", "")
    try:
        is_settled = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified) >= _SETTLED
    except (ValueError, TypeError, OverflowError):
        return ""
    return modified if is_settled and modified.isascii() and modified.isprintable() else ""


def _store(
    response: requests.Response,
    part: Part,
    have: int,
    total: int | None,
    most_bytes: int,
    report: Report,
    patience: Patience,
) -> None:
    began, first = time.monotonic(), have
    # A body that ends early is kept as far as it came; its length is checked below.
    response.raw.enforce_content_length = False
    with part.path.open("ab" if have else "wb") as file:
        # To wait for full pieces would be to wait for ever where a server dribbles.
        while piece := response.raw.read1(_CHUNK):
            have += len(piece)
            if have > most_bytes:
                raise RefusedError(f"it has more than {most_bytes:,} bytes")
            if total is not None and have > total:
                raise RefusedError(f"it has more than the {total:,} bytes that the server announced")
            file.write(piece)
            report(have, total)
            elapsed = time.monotonic() - began
            if elapsed > patience.slow and have - first < patience.slowest * elapsed:
                raise BrokenError("the server is too slow")
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise BrokenError(f"it broke off after {have:,} of {total:,} bytes")


@contextmanager
def _ask(
    session: requests.Session, address: str, headers: Mapping[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """The answer to a request, behind all redirections; their bodies are not read."""
    for _ in range(_MOST_REDIRECTS):
        timeout = (patience.connect, patience.silence)
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
        raise RefusedError("the server redirects to something that is no address of the web") from None
    return found


class _Clock:
    """When to give up.

    Attributes:
        ends: In seconds of the monotonic clock.
    """

    def __init__(self, ends: float) -> None:
        self.ends = ends


class _Reader(io.RawIOBase):
    """What comes from a socket until a time; its own timeout is for one piece, and there may be ever another piece."""

    def __init__(self, clock: _Clock, connection: socket.socket, file: io.BufferedIOBase) -> None:
        self._clock, self._connection, self._file = clock, connection, file.detach()
        self._timeout = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._clock.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if self._timeout is None else min(left, self._timeout))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that is there in time or never: header, `100 Continue`, a proxy's answer and body."""

    def __init__(self, clock: _Clock, sock: socket.socket, *values: Any, **named: Any) -> None:
        super().__init__(sock, *values, **named)
        self.fp = io.BufferedReader(_Reader(clock, sock, self.fp))


class _Adapter(requests.adapters.HTTPAdapter):
    """Reads answers by a clock."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._answer = functools.partial(_Response, clock)

    def get_connection_with_tls_context(self, *values: Any, **named: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*values, **named)
        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": self._answer})
        return pool


class _Session(requests.Session):
    """Reads answers by a clock, and follows no redirection: it would read all of the redirecting answer."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(clock))

    def get_redirect_target(self, _: requests.Response) -> None:
        """None, ever."""


_WORDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((requests.exceptions.ProxyError, urllib3.exceptions.ProxyError), "the proxy is not there or refused"),
    ((ssl.SSLError, urllib3.exceptions.SSLError), "there was no safe connection"),
    ((urllib3.exceptions.NameResolutionError,), "its host is not known"),
    ((urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError), "there was no connection"),
    ((TimeoutError, urllib3.exceptions.TimeoutError), "the server did not answer in time"),
    ((ConnectionError,), "the server closed the connection"),
    (
        (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead, urllib3.exceptions.InvalidChunkLength),
        "the server broke off, or sent what is no HTTP",
    ),
    (
        (http.client.HTTPException, urllib3.exceptions.ProtocolError, urllib3.exceptions.InvalidHeader),
        "the server sent what is no HTTP",
    ),
)


_LIBRARIES = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException)


@contextmanager
def _in_words() -> Iterator[None]:
    """Turns what the libraries raise into what the server did."""
    try:
        yield
    except ValueError as error:  # of an address, a scheme or a header; some are RequestExceptions too
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
    """An error with those that it holds."""
    yield error
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            yield from _chain(inner)
