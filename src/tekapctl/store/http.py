"""Download a file from an untrusted web server, within a deadline, and resume unfinished downloads."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests

from tekapctl.store.atomic import atomic_write
from tekapctl.store.network import (
    BrokenError,
    Deadline,
    DeadlineSession,
    RefusedError,
    request,
    translating_http_errors,
)

Report = Callable[[int, int | None], None]
"""Receives the number of bytes so far, and the total if it is known."""

_CHUNK = 1 << 18
_RETRY_LATER = (408, 425, 429)
_SETTLED = timedelta(seconds=60)
"""Age from which a modification time identifies a version of a file (RFC 9110, 8.8.2.2)."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for servers.

    Attributes:
        attempts: Number of attempts per source.
        pause: Seconds before the second attempt, doubled for each further one.
        connect: Seconds to connect.
        silence: Seconds between two pieces of data.
        answer: Seconds until the headers are complete.
        slow: Seconds during which a server may be slower than `slowest`.
        slowest: Bytes per second, averaged over the attempt, below which a server is given up.
        deadline: Seconds for all attempts at one source.
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
    """An unfinished download from one address.

    Attributes:
        path: File with the bytes so far.
    """

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

    def drop_if_useless(self) -> None:
        """Delete it if it cannot be resumed."""
        if not self.known()[0]:
            self.drop()


def get(address: str, part: Part, *, max_bytes: int, report: Report, patience: Patience, ends: float) -> None:
    """Download a file, or the rest of it.

    Args:
        address: Its address.
        part: Where its bytes go; the download is resumed if the server still has the same version of the file.
        max_bytes: No more than this is ever written.
        report: Receives the progress.
        patience: How long to wait.
        ends: When to give up, as a time of the monotonic clock.

    Raises:
        RefusedError: The server offers something other than the file.
        BrokenError: The download failed; the bytes so far are kept if they can be resumed.
    """
    have, version = part.known()
    # Compression would change the meaning of lengths and ranges.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    deadline = Deadline(min(ends, time.monotonic() + patience.answer))
    timeout = (patience.connect, patience.silence)
    with (
        translating_http_errors(),
        DeadlineSession(deadline) as session,
        request(session, address, headers, timeout) as response,
    ):
        deadline.ends = ends
        if response.status_code == 206 and have:
            total: int | None = _check_rest(response.headers, part, have, version)
        elif response.status_code == 416 and have:
            part.drop()
            raise BrokenError("the unfinished download does not match the file")
        elif response.status_code in (200, 203):
            have = 0
            total = _length(response.headers)
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
        _store(response, part, have, total, max_bytes, report, patience)


def _check_rest(headers: Mapping[str, str], part: Part, have: int, version: str) -> int:
    """Check that the response continues the unfinished download; returns the length of the file."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""), re.ASCII)
    # Some servers do not know If-Range.
    if found is None or int(found[1]) != have or int(found[2]) + 1 != int(found[3]) or _version(headers) != version:
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


def _store(
    response: requests.Response,
    part: Part,
    have: int,
    total: int | None,
    max_bytes: int,
    report: Report,
    patience: Patience,
) -> None:
    began, first = time.monotonic(), have
    # A body that ends early is kept; its length is checked below.
    response.raw.enforce_content_length = False
    with part.path.open("ab" if have else "wb") as file:
        # read() would wait for full pieces, forever if the server sends them slowly.
        while piece := response.raw.read1(_CHUNK):
            have += len(piece)
            if have > max_bytes:
                raise RefusedError(f"it has more than {max_bytes:,} bytes")
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
        raise BrokenError(f"it ended after {have:,} of {total:,} bytes")
