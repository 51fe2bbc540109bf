"""Whether a process holds a lock, asked without getting in anybody's way."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

can_be_told = fcntl is not None
"""Whether files that a process holds with `held` can be told from others here."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Make a file and hold it while the block runs, so that `is_locked` says so, whatever it is renamed to.

    Raises:
        OSError: It is there, or cannot be made.
    """
    with path.open("xb") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without such locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
            return
    yield  # Windows renames no file that is open


def is_locked(lock: Path) -> bool:
    """Whether a process holds a lock file; nothing is written, and those who ask at once do not meet each other.

    A process that takes the lock in the very microseconds of the question meets it: takers try again for a moment.

    Args:
        lock: The file; where there is none, nobody holds it.
    """
    if fcntl is None:
        return not _can_be_taken(lock)
    try:
        file = lock.open("rb")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without such locks: filelock has a way around it
            return not _can_be_taken(lock)
        return False


def hold_shared(file: IO[bytes]) -> None:
    """Hold a file while it stays open; as many processes as like may do so, and `is_open` says so."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without such locks
            fcntl.flock(file, fcntl.LOCK_SH)


def is_open(path: Path) -> bool:
    """Whether a process holds a file with `hold_shared`; never where that cannot be told."""
    if fcntl is None or not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _can_be_taken(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False
