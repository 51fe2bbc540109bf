"""Files and folders that appear complete or not at all, and JSON files."""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from tekapctl.errors import TekapctlError
from tekapctl.store.locks import can_detect_locks, create_locked, is_locked


def atomic_write(path: Path, content: bytes, *, make_folder: bool = True) -> None:
    """Write a file so that after a crash at any moment it is either the old or the new one.

    Raises:
        TekapctlError: The disk is full, or the folder is not writable.
    """
    with atomic_file(path, make_folder=make_folder) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, *, make_folder: bool = True) -> Iterator[BinaryIO]:
    """The same for a file that the block writes piece by piece; nothing is left of it if the block raises.

    Raises:
        TekapctlError: The disk is full, or the folder is not writable.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def as_json(values: object) -> bytes:
    """The contents of a JSON file."""
    return (json.dumps(values, indent=2) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def remove_stale(folder: Path, name: str = "*") -> None:
    """Delete temporary files of `atomic_write` that a dead process left; call this under the lock for writing them."""
    for part in folder.glob(f".{name}.*.part"):
        part.unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder with its contents, even if another process deletes it at the same time."""

    def ignore_missing(_: object, __: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=ignore_missing)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_usage(path: Path) -> int:
    """Bytes that a file takes on disk; less than its length if it is sparse."""
    found = path.stat()
    return min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)


def format_bytes(count: int) -> str:
    """A number of bytes with a binary unit."""
    left = float(count)
    for unit in ("B", "KiB", "MiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} GiB"


def make_folder(path: Path) -> Path:
    """Create a folder if it does not exist, and return it.

    Raises:
        TekapctlError: It cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error
    return path


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(error: OSError, path: Path) -> TekapctlError:
    """The program's error for an error of the operating system."""
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        problem, remedy = f"The disk is full: {path} could not be written.", "Free space; `tekapctl cache list` helps."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        problem, remedy = f"{path} is not writable: {why}.", "Set TEKAPCTL_HOME to a folder that you own."
    else:
        problem, remedy = f"{path} could not be written: {why}.", "Set TEKAPCTL_HOME to another folder."
    return TekapctlError(problem, remedy)


@contextmanager
def atomic_entries(path: Path, *companions: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files and folders replace those of the same names when the block ends.

    If it raises, nothing is left of it.

    Args:
        path: The main file or folder; the folder that holds it is created.
        companions: Files and folders beside it that belong to it; at no moment is there a companion of another one.
            Those that the block does not write are deleted.

    Raises:
        TekapctlError: The disk is full, or a folder is not writable.
    """
    stem = f".{hashlib.sha256(b'entries' + os.fsencode(path.name)).hexdigest()[:16]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{stem}.*.lock") if can_detect_locks else ():
            if not is_locked(left):
                delete(left.with_suffix(".part"))
                left.unlink(missing_ok=True)
        lock = path.with_name(f"{stem}.{secrets.token_hex(4)}.lock")
        stage = lock.with_suffix(".part")
        try:
            with create_locked(lock):
                stage.mkdir()
                yield stage
                _flush_all(stage)
                for place in companions:
                    delete(place)
                for place in (path, *companions):
                    if (stage / place.name).is_dir():
                        delete(place)
                    if (stage / place.name).exists():
                        (stage / place.name).replace(place)
                flush_folder(path.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            with suppress(OSError):
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise TekapctlError(explain(error, path).problem, "Free space, or name a file elsewhere.") from error


@contextmanager
def atomic_path(path: Path, *companions: Path) -> Iterator[tuple[Path, ...]]:
    """The same for files alone; yields their temporary paths."""
    with atomic_entries(path, *companions) as stage:
        yield tuple(stage / place.name for place in (path, *companions))


def _flush_all(folder: Path) -> None:
    for place in folder.rglob("*"):
        if place.is_file():
            with place.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def replacement_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for replacement, and clean up after processes that were killed.

    Raises:
        TekapctlError: The disk is not writable.
    """
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        old = _old(folder)
        if os.path.lexists(old) and not os.path.lexists(folder):
            old.rename(folder)  # killed between the two renames of a replacement
        yield
        # tempfile's names have eight random letters.
        for stale in (old, *folder.parent.glob(f".{glob.escape(folder.name)}.{'?' * 8}.part")):
            delete(stale)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Replace a folder when the block ends without an error; others see the old one, none or the new one, but no part.

    Args:
        folder: The folder; the caller holds its `replacement_lock`. A link is replaced, and its target stays.

    Yields:
        A temporary folder, in which the block creates a folder of the same name.

    Raises:
        TekapctlError: The disk is full or not writable.
    """
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            yield stage
            _swap(stage / folder.name, folder)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise explain(error, folder) from None


def _swap(new: Path, folder: Path) -> None:
    old = _old(folder)
    delete(old)
    if os.path.lexists(folder):
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if os.path.lexists(old):
            old.rename(folder)
        raise
    flush_folder(folder.parent)
    delete(old)


def _old(folder: Path) -> Path:
    """Where the old folder is while it is replaced."""
    return folder.with_name(f".{folder.name}.old")
