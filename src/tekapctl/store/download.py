"""Get files from the web, a mirror or the disk, none of which is trusted; or guard against any use of the network."""

import glob
import hashlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import make_folder, sha256
from tekapctl.store.home import expand_user
from tekapctl.store.http import BrokenError, Part, Patience, Report, get, silent
from tekapctl.store.session import RefusedError, check_address

_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_offline: list[str] = []
"""What runs without the network now."""


class OfflineError(UsageError):
    """The network is needed but forbidden."""


@cache
def _install_guard() -> None:
    """Watch all connections of this process; audit hooks cannot be removed, so a single one is installed."""

    def check(event: str, values: tuple[object, ...]) -> None:
        if not _offline or event not in _NETWORK_EVENTS:
            return
        if not hasattr(socket, "AF_UNIX") or getattr(values[0], "family", None) != socket.AF_UNIX:
            raise OfflineError(
                f"{_offline[-1]} needs the network, and `offline` forbids it.",
                "Leave out `offline`, or name a file or folder with `source`.",
            )

    sys.addaudithook(check)


@contextmanager
def no_network(what: str) -> Iterator[None]:
    """In this block, no thread and no library can open a connection or look up a host.

    Raises:
        OfflineError: Something tried to use the network.
    """
    _install_guard()
    _offline.append(what)
    try:
        yield
    finally:
        _offline.pop()


@dataclass(frozen=True)
class Downloaded:
    """A file that was downloaded from its origin, or found on disk as a file of the user that must stay as it is."""

    path: Path
    origin: str
    is_users: bool

    def place(self, target: Path) -> None:
        """Move it to another path, or copy it if it is the user's."""
        make_folder(target.parent)
        if self.is_users:
            shutil.copyfile(self.path, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        else:
            self.path.replace(target)


@contextmanager
def download(
    sources: Sequence[str],
    folder: Path,
    name: str,
    *,
    max_bytes: int,
    digest: str | None = None,
    report: Report = silent,
    patience: Patience | None = None,
) -> Iterator[Downloaded]:
    """Get a file from the first source that has it; a downloaded file is deleted when the block ends.

    The next call resumes an unfinished download if its address is the same and the server still has the same version of
    the file. Unfinished downloads from other addresses are deleted.

    Args:
        sources: URLs (http, https, file) and paths, in order.
        folder: Where unfinished downloads are; the caller holds the lock for downloading `name`.
        name: The name of the file.
        max_bytes: A larger file is refused, and no more than this is ever written.
        digest: SHA-256 that the file must have, if known.
        report: Receives the progress.
        patience: How long to wait for servers.

    Raises:
        TekapctlError: No source has the file; the message gives the reason for each.
    """
    make_folder(folder)
    remove_stale_parts(folder, name, sources)
    failures = []
    for source in sources:
        part = _part(folder, name, source)
        try:
            found = _from(source, part, max_bytes, report, patience or Patience())
            if digest is not None and (actual := sha256(found.path)) != digest:
                raise RefusedError(f"its SHA-256 is {actual}, not {digest}")
        except (RefusedError, BrokenError) as error:
            if isinstance(error, RefusedError) or not part.known()[0]:  # it cannot be resumed
                part.drop()
            failures.append(f"{source}: {error}")
        except OSError as error:
            failures.append(f"{source}: {error.strerror or error}")
        else:
            try:
                yield found
            finally:
                part.drop()
            return
    raise TekapctlError(
        f"{name} could not be fetched ({'; '.join(failures)}).",
        "Try again later, set TEKAPCTL_MIRROR to a mirror, or give a file with `source`.",
    )


def published(*addresses: str) -> list[str]:
    """The sources of a published file: the mirror in TEKAPCTL_MIRROR, then the publisher's addresses.

    Raises:
        UsageError: The mirror is neither a URL nor a path.
    """
    mirror = os.environ.get("TEKAPCTL_MIRROR")
    if not mirror:
        return list(addresses)
    check_source(mirror, "TEKAPCTL_MIRROR")
    path = "/".join(urlsplit(addresses[0]).path.strip("/").split("/")[-2:])
    return [f"{mirror.rstrip('/')}/{path}", *addresses]


def check_source(source: str, option: str) -> None:
    """Check that a source, the value of an option or variable, is a path, or a URL with the scheme http, https or file.

    Raises:
        UsageError: It is neither.
    """
    try:
        scheme = _scheme(source)
        if scheme in ("http", "https"):
            check_address(source)
        elif not scheme:
            expand_user(source)
        elif scheme != "file":
            raise RefusedError("its scheme is not http, https or file")
    except RefusedError as error:
        raise UsageError(f"{option} {source!r} cannot be used: {error}.", "Name a file, a folder or a URL.") from None


def file_in(source: str, name: str, *suffixes: str) -> str:
    """The source of one file: `source` itself if it has one of the suffixes, else the file `name` in it."""
    path = urlsplit(source).path if _scheme(source) in ("http", "https") else source
    return source if path.endswith(suffixes) else f"{source.rstrip('/')}/{name}"


def local_path(source: str) -> Path | None:
    """The path of a local source, or None for a web address."""
    if found := re.match(r"file:(//[^/]*)?(?=/)", source, re.IGNORECASE):
        return Path(url2pathname(source[found.end() :]))
    return None if _scheme(source) else expand_user(source)


def _scheme(source: str) -> str:
    """The scheme of a URL; empty for a path."""
    found = re.match(r"\s*([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    return found[1].lower() if found else ""


def _part(folder: Path, name: str, source: str) -> Part:
    # Sources that are not valid text are refused later, but need a file name until then.
    return Part(folder / f".{name}.{hashlib.sha256(source.encode(errors='surrogatepass')).hexdigest()}.part")


def remove_stale_parts(folder: Path, name: str, sources: Sequence[str] = ()) -> None:
    """Delete unfinished downloads of a file, for which the caller holds the lock; those of `sources` are kept.

    Sources that are in the folder are kept, too.
    """
    parts = [_part(folder, name, source) for source in sources]
    kept = {path for part in parts for path in (part.path, part.note)}
    local = [path for path in map(local_path, sources) if path is not None and path.exists()]
    part_of = f".{glob.escape(name)}.{'[0-9a-f]' * 64}"
    # The second pattern is that of a note whose writer was killed (`atomic_write`).
    for path in (*folder.glob(f"{part_of}.*"), *folder.glob(f".{part_of}.json.*.part")):
        if path not in kept and not any(path.samefile(source) for source in local):
            path.unlink(missing_ok=True)


def _from(source: str, part: Part, max_bytes: int, report: Report, patience: Patience) -> Downloaded:
    path = local_path(source)
    if path is not None:
        if not path.exists():
            raise RefusedError("there is no such file")
        if not path.is_file():
            raise RefusedError("it is not a regular file")
        if path.stat().st_size > max_bytes:
            raise RefusedError(f"it is larger than {max_bytes:,} bytes")
        return Downloaded(path, source, is_users=True)
    check_address(source)
    ends = time.monotonic() + patience.deadline
    for attempt in range(patience.attempts):
        try:
            get(source, part, max_bytes=max_bytes, report=report, patience=patience, ends=ends)
            break
        except BrokenError:
            if attempt + 1 == patience.attempts or time.monotonic() > ends:
                raise
        time.sleep(patience.pause * 2**attempt)
    return Downloaded(part.path, source, is_users=False)
