"""Files from wherever the user or a publisher has them: the web, a mirror, or the disk; nothing of them is trusted."""

import glob
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import make_folder, sha256
from tekapctl.store.home import expand_user
from tekapctl.store.http import BrokenError, Part, Patience, RefusedError, Report, check_address, get


def silent(_: int, __: int | None) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there.

    Attributes:
        path: Where it is.
        origin: The source that gave it.
        is_users: Whether it is a file of the user's own, which stays as it is.
    """

    path: Path
    origin: str
    is_users: bool

    def place(self, target: Path) -> None:
        """Bring it to another place: moved if it was downloaded, copied if it is the user's."""
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
    most_bytes: int,
    digest: str | None = None,
    report: Report = silent,
    patience: Patience | None = None,
) -> Iterator[Downloaded]:
    """A file from the first source that gives it whole; what was downloaded is deleted when the block ends.

    A download that broke off goes on at the next call, if it is of the same address and the server still has the same
    version of the file. Parts of other addresses are deleted.

    Args:
        sources: Addresses (http, https, file) and paths, in order.
        folder: Where parts of downloads are; the caller holds the lock under which `name` is downloaded.
        name: What to call them.
        most_bytes: A larger file is refused, and no more than this is ever written.
        digest: SHA-256 that it must have, if known.
        report: Is told of the progress.
        patience: How long to wait for servers.

    Raises:
        TekapctlError: No source gave it; the message says what was wrong with each.
    """
    make_folder(folder)
    parts = {source: _part(folder, name, source) for source in sources}
    sweep_parts(folder, name, parts)
    failures = []
    for source, part in parts.items():
        try:
            found = _from(source, part, most_bytes, report, patience or Patience())
            if digest is not None and (actual := sha256(found.path)) != digest:
                raise RefusedError(f"its SHA-256 is {actual}, not {digest}")
        except RefusedError as error:
            part.drop()
            failures.append(f"{source}: {error}")
        except BrokenError as error:
            part.drop_if_useless()
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
        "Try again later, set TEKAPCTL_MIRROR to a mirror of yours, or give a file with --from.",
    )


def published(*addresses: str) -> list[str]:
    """Where to look for a published file: the mirror in TEKAPCTL_MIRROR, then the publishers' own addresses.

    Raises:
        UsageError: The mirror is no address and no path.
    """
    mirror = os.environ.get("TEKAPCTL_MIRROR")
    if not mirror:
        return list(addresses)
    check_source(mirror, "TEKAPCTL_MIRROR")
    path = "/".join(urlsplit(addresses[0]).path.strip("/").split("/")[-2:])
    return [f"{mirror.rstrip('/')}/{path}", *addresses]


def check_source(source: str, option: str) -> None:
    """See to it that a source can be asked: a path, or an address of http, https or file.

    Args:
        source: What the user wrote.
        option: Where.

    Raises:
        UsageError: It cannot.
    """
    try:
        scheme = _scheme(source)
        if scheme in ("http", "https"):
            check_address(source)
        elif not scheme:
            expand_user(source)
        elif scheme != "file":
            raise RefusedError("it is no address of http, https or file")
    except RefusedError as error:
        raise UsageError(f"{option} {source!r} cannot be used: {error}.", "Name a file, a folder or a URL.") from None


def file_in(source: str, name: str, *suffixes: str) -> str:
    """The source of one file: `source` itself where it ends as such files do, else the file `name` in it."""
    path = urlsplit(source).path if _scheme(source) in ("http", "https") else source
    return source if path.endswith(suffixes) else f"{source.rstrip('/')}/{name}"


def local_path(source: str) -> Path | None:
    """The path that a source is, or None if it is an address of the web."""
    if found := re.match(r"file:(//[^/]*)?(?=/)", source, re.IGNORECASE):
        return Path(url2pathname(source[found.end() :]))
    return None if _scheme(source) else expand_user(source)


def _scheme(source: str) -> str:
    """The scheme of an address; empty for a path."""
    found = re.match(r"\s*([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE)
    return found[1].lower() if found else ""


def _part(folder: Path, name: str, source: str) -> Part:
    # What is no text is not passed on to a server, but must have a name until that is found out.
    return Part(folder / f".{name}.{hashlib.sha256(source.encode(errors='surrogatepass')).hexdigest()}.part")


def sweep_parts(folder: Path, name: str, parts: Mapping[str, Part] = MappingProxyType({})) -> None:
    """Delete what is left of downloads.

    Args:
        folder: The folder.
        name: What was downloaded; the caller holds the lock for it.
        parts: Parts by their sources; these stay, and so do the sources.
    """
    kept = {path for part in parts.values() for path in (part.path, part.note)}
    sources = [path for path in map(local_path, parts) if path is not None and path.exists()]
    for path in folder.glob(f".{glob.escape(name)}.{'[0-9a-f]' * 64}.*"):
        if path not in kept and not any(path.samefile(source) for source in sources):
            path.unlink(missing_ok=True)


def _from(source: str, part: Part, most_bytes: int, report: Report, patience: Patience) -> Downloaded:
    path = local_path(source)
    if path is not None:
        _check_file(path, most_bytes)
        return Downloaded(path, source, is_users=True)
    check_address(source)
    ends = time.monotonic() + patience.deadline
    for attempt in range(patience.attempts):
        try:
            get(source, part, most_bytes=most_bytes, report=report, patience=patience, ends=ends)
            break
        except BrokenError:
            if attempt + 1 == patience.attempts or time.monotonic() > ends:
                raise
        time.sleep(patience.pause * 2**attempt)
    return Downloaded(part.path, source, is_users=False)


def _check_file(path: Path, most_bytes: int) -> None:
    if not path.exists():
        raise RefusedError("there is no such file")
    if not path.is_file():
        raise RefusedError("it is no regular file")
    if path.stat().st_size > most_bytes:
        raise RefusedError(f"it is larger than {most_bytes:,} bytes")


__all__ = [
    "Downloaded",
    "Report",
    "check_source",
    "download",
    "file_in",
    "local_path",
    "published",
    "silent",
    "sweep_parts",
]
