"""Files that appear whole or not at all."""

import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.home import Home, expand_user
from tekapctl.store.locks import can_be_told, held, is_locked


def atomic_write(path: Path, content: bytes) -> None:
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


_LONGEST_SUFFIX = 32


def output_file(given: Path, home: Home, *, force: bool, what: str = "") -> Path:
    """The file to write for what a user named; a link is written through, to what it leads to.

    Args:
        given: As it was written.
        home: Its files are never written over.
        force: Replace a file that is there.
        what: What goes there, for the error.

    Raises:
        UsageError: It is a folder, a device or the like, belongs to the home, or is there and is not to be replaced.
    """
    path = expand_user(str(given))
    found = _stat(path)
    place = path.resolve() if path.is_symlink() else path
    if _is_kept(path.resolve(), home, is_there=found is not None):
        raise UsageError(
            f"{path}{what} is in {home.root}, which tekapctl keeps its files in.", "Name a file elsewhere."
        )
    if found is None:
        return place
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path}{what} is a folder.", "Name a file with --output.")
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}{what} is no regular file but a device, pipe or socket.", "Name a file with --output.")
    if not force:
        raise UsageError(f"{path}{what} is there already.", "Name another --output, or replace it with --force.")
    return place


@contextmanager
def atomic_path(path: Path, *companions: Path) -> Iterator[tuple[Path, ...]]:
    """Files to write, each beside its place: put in place where the block ends well, deleted where it raises.

    Companions describe the file at `path`: at no moment is there one beside another file than its own.

    Args:
        path: Where the file goes; its folder is made.
        companions: Where files that belong to it go.

    Raises:
        TekapctlError: The disk is full, or a folder cannot be written.
    """
    places = (path, *companions)
    try:
        with ExitStack() as stack:
            parts = tuple(stack.enter_context(_part(place)) for place in places)
            yield parts
            for part in parts:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            for companion in companions:
                companion.unlink(missing_ok=True)
            for part, place in zip(parts, places, strict=True):
                part.replace(place)
            flush_folder(path.parent)
    except OSError as error:
        raise TekapctlError(explain(error, path).problem, "Free space, or name a file elsewhere.") from error


@contextmanager
def _part(place: Path) -> Iterator[Path]:
    """A new file beside a place; those of processes that were killed are deleted."""
    place.parent.mkdir(parents=True, exist_ok=True)
    # The name has no part of the file's own, which may be as long as names can be. Some readers go by the suffix.
    stem = f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]}"
    suffix = place.suffix if len(os.fsencode(place.suffix)) <= _LONGEST_SUFFIX else ""
    for left in place.parent.glob(f"{stem}.*.part*") if can_be_told else ():
        if not is_locked(left):
            left.unlink(missing_ok=True)
    part = place.with_name(f"{stem}.{secrets.token_hex(4)}.part{suffix}")
    try:
        with held(part):
            yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        words = {
            errno.ELOOP: "is a link that leads to itself",
            errno.ENAMETOOLONG: "is a longer name than files can have",
            errno.ENOTDIR: "is below something that is no folder",
        }
        why = words.get(error.errno or 0, f"cannot be written: {error.strerror}")
        raise UsageError(f"{path} {why}.", "Name another file with --output.") from None


def _is_kept(place: Path, home: Home, *, is_there: bool) -> bool:
    root = home.root.resolve()
    kept = (home.datasets, home.teachers, home.downloads, home.knowledge, home.runs, home.sweeps)
    return any(place.is_relative_to(folder.resolve()) for folder in kept) or (is_there and place.parent == root)


_TOKEN = "?" * 8  # as long as tempfile makes its names


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Hold the lock under which a folder is filled, and put right what a process that was killed has left.

    Args:
        folder: Its place.

    Raises:
        TekapctlError: The disk cannot be written.
    """
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        old = _old(folder)
        if os.path.lexists(old) and not os.path.lexists(folder):
            old.rename(folder)  # killed between the two renames of a replacement
        yield
        for rest in (old, *folder.parent.glob(f".{glob.escape(folder.name)}.{_TOKEN}.part")):
            delete(rest)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A place to make a folder anew: when the block ends well, what was made there takes the place of what was there.

    Whoever looks meanwhile finds the old folder, none, or the new one, never a part of either.

    Args:
        folder: Its place; the caller is `filling` it. A link is replaced, and what it leads to stays.

    Returns:
        A folder beside it, in which the block makes one of the same name.

    Raises:
        TekapctlError: The disk is full or cannot be written.
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
    """Where what was there is while it is replaced."""
    return folder.with_name(f".{folder.name}.old")
