"""Download a file from an untrusted web server, within a deadline, and resume unfinished downloads."""

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead
from pathlib import Path

import requests
from urllib3 import exceptions as wire

from tekapctl.store.atomic import atomic_write
from tekapctl.store.session import RefusedError, TimedSession

Report = Callable[[int, int | None], None]
"""Receives the number of bytes so far, and the total if it is known."""
_CHUNK = 1 << 18
_RETRY_LATER = (408, 425, 429)
_SETTLED = timedelta(seconds=60)
"""Age from which a modification time identifies a version of a file (RFC 9110, 8.8.2.2)."""


class BrokenError(Exception):
    """A download failed; trying again may help."""


def silent(_: int, __: int | None) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for servers, in seconds."""

    attempts: int = 3  # per source
    pause: float = 1.0  # before the second attempt; doubled for each further one
    connect: float = 10.0
    silence: float = 30.0  # between two pieces of data
    answer: float = 60.0  # until the headers are complete
    slow: float = 60.0  # for which a server may be slower than `slowest`
    slowest: int = 1024  # bytes per second, averaged over the attempt
    deadline: float = 6 * 3600.0  # for all attempts at one source


@dataclass(frozen=True)
class Part:
    """An unfinished download from one address: its bytes so far, and a note of their version."""

    path: Path

    @property
    def note(self) -> Path:
        """File with the version of the remote file."""
        return self.path.with_suffix(".json")

    def known(self) -> tuple[int, str]:
        """Number of bytes so far and their version; (0, "") if either is unknown."""
        try:
            version = json.loads(self.note.read_text(encoding="utf-8"))["version"]
            have = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0, ""
        return (have, version) if isinstance(version, str) and version else (0, "")

    def begin(self, version: str) -> None:
        """Start again with a version of the file; an empty version cannot be resumed."""
        self.drop()
        if version:
            atomic_write(self.note, json.dumps({"version": version}).encode())

    def drop(self) -> None:
        """Delete it, the bytes before their version."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def get(address: str, part: Part, *, max_bytes: int, report: Report, patience: Patience, ends: float) -> None:
    """Download a file, or the rest of it if the server still has the same version.

    No more than `max_bytes` is ever written. It gives up at `ends`, a time of the monotonic clock.

    Raises:
        RefusedError: The server offers something other than the file.
        BrokenError: The download failed; the bytes so far are kept if they can be resumed.
    """
    have, version = part.known()
    # Compression would change the meaning of lengths and ranges.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with (
        _translating_errors(),
        TimedSession(min(ends, time.monotonic() + patience.answer)) as session,
        session.follow(address, headers, (patience.connect, patience.silence)) as response,
    ):
        session.ends = ends
        if have and response.status_code in (206, 416):
            total: int | None = _check_rest(response, part, have, version)
        elif response.status_code in (200, 203):
            have, total = 0, _length(response.headers)
        elif response.status_code >= 500 or response.status_code in _RETRY_LATER:
            raise BrokenError(f"the server answered {response.status_code}")
        else:
            raise RefusedError(f"the server answered {response.status_code}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise RefusedError("it is a web page, not the file")
        if total is not None and total > max_bytes:
            raise RefusedError(f"it claims to have {total:,} bytes, more than {max_bytes:,}")
        if not have:
            part.begin(_version(response.headers))
        with part.path.open("ab" if have else "wb") as file:
            for piece in _pieces(response, patience):
                have += len(piece)
                if have > max_bytes:
                    raise RefusedError(f"it has more than {max_bytes:,} bytes")
                if total is not None and have > total:
                    raise RefusedError(f"it has more than the {total:,} bytes that the server announced")
                file.write(piece)
                report(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have < total:
            raise BrokenError(f"it ended after {have:,} of {total:,} bytes")


def _check_rest(response: requests.Response, part: Part, have: int, version: str) -> int:
    """Check that the response continues the unfinished download; returns the length of the file."""
    span = response.headers.get("Content-Range", "") if response.status_code == 206 else ""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", span, re.ASCII)
    is_rest = found is not None and int(found[1]) == have and int(found[2]) + 1 == int(found[3])
    # Some servers do not know If-Range.
    if found is None or not is_rest or _version(response.headers) != version:
        part.drop()
        raise BrokenError("the unfinished download does not match the file")
    return int(found[3])


def _length(headers: Mapping[str, str]) -> int | None:
    stated = headers.get("Content-Length")
    if stated is None or "Transfer-Encoding" in headers:
        return None
    if not re.fullmatch(r"\d{1,18}", stated, re.ASCII):
        raise RefusedError("its Content-Length is not a number")
    return int(stated)


def _version(headers: Mapping[str, str]) -> str:
    """A strong identifier of the file's version for If-Range; empty if the server sends none."""
    tag = headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]+"', tag):  # weak tags begin with W/
        return tag
    modified = headers.get("Last-Modified", "")
    try:
        is_settled = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified) >= _SETTLED
    except (ValueError, TypeError, OverflowError):
        return ""
    return modified if is_settled and modified.isascii() and modified.isprintable() else ""


def _pieces(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The body as it arrives; read() would wait for full pieces, forever if the server sends them slowly."""
    began, received = time.monotonic(), 0
    response.raw.enforce_content_length = False  # a body that ends early is kept
    while piece := response.raw.read1(_CHUNK):
        yield piece
        received, elapsed = received + len(piece), time.monotonic() - began
        if elapsed > patience.slow and received < patience.slowest * elapsed:
            raise BrokenError("the server is too slow")


_WORDS: dict[str, tuple[type[BaseException], ...]] = {
    "the proxy refused or cannot be reached": (requests.exceptions.ProxyError, wire.ProxyError),
    "the TLS connection failed": (ssl.SSLError, wire.SSLError),
    "its host is unknown": (wire.NameResolutionError,),
    "the connection failed": (wire.NewConnectionError, wire.ConnectTimeoutError),
    "the server did not answer in time": (TimeoutError, wire.TimeoutError),
    "the server closed the connection": (ConnectionError,),
    "the server stopped sending or violated HTTP": (IncompleteRead, wire.IncompleteRead, wire.InvalidChunkLength),
    "the server violated HTTP": (HTTPException, wire.ProtocolError, wire.InvalidHeader),
}
_FAILURES = (requests.RequestException, wire.HTTPError, HTTPException, ConnectionError, TimeoutError)


@contextmanager
def _translating_errors() -> Iterator[None]:
    """Translate errors of the HTTP libraries."""
    try:
        yield
    except ValueError as error:  # an invalid address, scheme or header; some are RequestExceptions too
        raise RefusedError(_words(error)) from None
    except _FAILURES as error:
        raise BrokenError(_words(error)) from None


def _words(error: BaseException) -> str:
    chain = list(_chain(error))
    known = (words for words, kinds in _WORDS.items() if any(isinstance(each, kinds) for each in chain))
    return next(known, next(iter(str(error).splitlines()), type(error).__name__))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors that it wraps."""
    yield error
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            yield from _chain(inner)
