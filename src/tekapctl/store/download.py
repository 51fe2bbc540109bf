"""Files from the network, of which nothing is trusted."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3
from filelock import FileLock

from tekapctl.errors import TekapctlError
from tekapctl.store.files import make_folder, sha256

Report = Callable[[int, int | None], None]
"""Is told how many bytes are there, and how many there will be if that is known."""


def silent(_: int, __: int | None) -> None:
    """Tells nobody."""


TIMEOUT = (10.0, 30.0)
"""Seconds to connect, and between two pieces."""
ATTEMPTS = 3
SLOWEST = 1024
"""Bytes a second, over the whole download after PATIENCE; slower servers are given up."""
PATIENCE = 60.0
"""Seconds in which a server may be slow."""
_CHUNK = 1 << 18


class _RefusedError(Exception):
    """A source gave something else than the file; asking it again is of no use."""


def download(
    urls: Sequence[str],
    target: Path,
    *,
    most_bytes: int,
    digest: str | None = None,
    report: Report = silent,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
) -> str:
    """Get a file from the first source that gives it whole; returns that source.

    A broken download goes on where it broke, if the server can do that. Two processes that want one file get it once.

    Args:
        urls: Sources in order: http, https and file addresses or paths. The mirror in TEKAPCTL_MIRROR comes first.
        target: Where it goes; it appears there whole or not at all.
        most_bytes: No more than this is ever written.
        digest: SHA-256 that it must have, if known.
        report: Is told of the progress.
        attempts: How often each source is asked.
        pause: Seconds before the second attempt, doubled for each one after it.

    Raises:
        TekapctlError: No source gave it; the message says what was wrong with each.
    """
    make_folder(target.parent)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file() and (digest is None or sha256(target) == digest):
            return str(target)
        failures = []
        for url in _with_mirror(urls):
            try:
                part = _fetch(url, target, most_bytes, report, attempts, pause)
                found = sha256(part)
                if digest not in (None, found):
                    part.unlink()
                    raise _RefusedError(f"its SHA-256 is {found}, not {digest}")
                part.replace(target)
                return url
            except (_RefusedError, requests.RequestException, OSError) as error:
                failures.append(f"{url}: {_reason(error)}")
    raise TekapctlError(
        f"{target.name} could not be fetched ({'; '.join(failures)}).",
        "Try again later, set TEKAPCTL_MIRROR to a mirror of yours, or give a file with --from.",
    )


def _with_mirror(urls: Sequence[str]) -> Iterator[str]:
    mirror = os.environ.get("TEKAPCTL_MIRROR")
    if mirror and urls:
        yield mirror.rstrip("/") + "/" + "/".join(urlsplit(urls[0]).path.strip("/").split("/")[-2:])
    yield from urls


def _fetch(url: str, target: Path, most_bytes: int, report: Report, attempts: int, pause: float) -> Path:
    # One part for each source: the bytes of one are never continued with another's.
    tag = sum(url.encode()) % 9973
    part = target.with_name(f".{target.name}.{tag}.part")
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        return _copy(
            Path(url2pathname(urlsplit(url).path)) if scheme == "file" else Path(url).expanduser(), part, most_bytes
        )
    for attempt in range(attempts):
        try:
            _get(url, part, most_bytes, report)
            return part
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            if attempt + 1 == attempts:
                raise
        except requests.HTTPError as error:
            if error.response.status_code < 500 or attempt + 1 == attempts:
                raise
        time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")


def _copy(source: Path, part: Path, most_bytes: int) -> Path:
    if not source.is_file():
        raise _RefusedError("there is no such file")
    if source.stat().st_size > most_bytes:
        raise _RefusedError(f"it is larger than {most_bytes:,} bytes")
    part.write_bytes(source.read_bytes())
    return part


def _get(url: str, part: Path, most_bytes: int, report: Report) -> None:
    have = part.stat().st_size if part.is_file() else 0
    # Compressed transfer would make lengths and ranges mean something else.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the part at hand does not fit the file")
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise _RefusedError("it is a web page, not the file")
        continues = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        have = have if continues else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if total is not None and total > most_bytes:
            raise _RefusedError(f"it says it has {total:,} bytes, more than {most_bytes:,}")
        _store(response, part, have, total, most_bytes, report)


def _store(
    response: requests.Response, part: Path, have: int, total: int | None, most_bytes: int, report: Report
) -> None:
    began, first = time.monotonic(), have
    # A body that ends early is kept as far as it came; its length is checked below.
    response.raw.enforce_content_length = False
    with part.open("ab" if have else "wb") as file:
        for piece in _pieces(response):
            have += len(piece)
            if have > most_bytes:
                file.close()
                part.unlink()
                raise _RefusedError(f"it has more than {most_bytes:,} bytes")
            file.write(piece)
            report(have, total)
            elapsed = time.monotonic() - began
            if elapsed > PATIENCE and have - first < SLOWEST * elapsed:
                raise requests.Timeout("the server is too slow")
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise requests.ConnectionError(f"it broke off after {have:,} of {total:,} bytes")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes: to wait for full pieces would be to wait for ever where a server dribbles."""
    try:
        while piece := response.raw.read1(_CHUNK):
            yield piece
    except urllib3.exceptions.TimeoutError as error:
        raise requests.Timeout(error) from None
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from None


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.TooManyRedirects):
        return "the server redirects in a circle"
    if isinstance(error, requests.Timeout):
        return str(error) if str(error).startswith("the server") else "the server did not answer in time"
    if isinstance(error, requests.ConnectionError):
        text = str(error)
        return text if text.startswith(("it ", "the ")) else "there was no connection"
    return str(error)
