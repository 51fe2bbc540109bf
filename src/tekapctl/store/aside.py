"""Files that a user named to be written: checked first, written aside, put in place when they are known to be good."""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.files import expand_user, explain, flush_folder
from tekapctl.store.held import can_be_told, held, is_held
from tekapctl.store.home import Home

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
def aside(path: Path, *companions: Path) -> Iterator[tuple[Path, ...]]:
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
        if not is_held(left):
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
