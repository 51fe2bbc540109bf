"""Files that appear whole or not at all."""

import errno
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from tekapctl.errors import TekapctlError, UsageError


def expand_user(text: str) -> Path:
    """A path that a user wrote, with `~` and `~NAME` replaced by home folders.

    Raises:
        UsageError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"There is no home folder for {Path(text).parts[0]!r}, so {text!r} is no path.", "Write the whole path."
        ) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a crash at any moment it is either the old one or the new one.

    Args:
        path: Where it goes; its folder is made.
        content: The bytes.

    Raises:
        TekapctlError: The disk is full, or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "*") -> None:
    """Delete what was written aside and never renamed; only for who holds the lock under which it is written.

    Args:
        folder: The folder.
        name: The file that was to be written.
    """
    for part in folder.glob(f".{name}.*.part"):
        part.unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link; also what another process deletes at once."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_ignore_missing)
    else:
        path.unlink(missing_ok=True)


def _ignore_missing(_: object, __: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def room(path: Path) -> int:
    """Bytes that a file takes on the disk; less than its length if there are holes in it."""
    found = path.stat()
    return min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)


def size(count: int) -> str:
    """A number of bytes for people."""
    left = float(count)
    for unit in ("B", "KiB", "MiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} GiB"


def make_folder(path: Path) -> Path:
    """The folder, made if it was not there.

    Raises:
        TekapctlError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error
    return path


def flush_folder(folder: Path) -> None:
    """Have the system write the names in a folder to the disk."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def explain(error: OSError, path: Path) -> TekapctlError:
    """The error of the system in the program's words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TekapctlError(
            f"The disk is full: {path} could not be written.", "Free space; `tekapctl cache list` helps."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TekapctlError(
            f"{path} may not be written: {error.strerror}.", "Set TEKAPCTL_HOME to a folder that is yours."
        )
    return TekapctlError(
        f"{path} could not be written: {error.strerror or error}.", "Set TEKAPCTL_HOME to another folder."
    )
