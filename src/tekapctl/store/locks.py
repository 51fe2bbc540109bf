"""Checks whether a process holds a lock, without disturbing processes that want it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

can_detect_locks = fcntl is not None
"""Whether this system can tell files that are locked with `create_locked` from others."""


@contextmanager
def create_locked(path: Path) -> Iterator[None]:
    """Create a file and lock it for the block; `is_locked` reports this even after the file was renamed.

    Raises:
        OSError: It exists or cannot be created.
    """
    with path.open("xb") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without such locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
            return
    yield  # Windows cannot rename open files


def is_locked(lock: Path) -> bool:
    """Whether a process holds a lock file; nothing is written, and concurrent checks do not disturb each other.

    The check itself holds a shared lock for microseconds, so whoever takes the lock should retry for a moment.
    """
    found = _try_lock(lock, shared=True)
    if found is not None:
        return not found
    try:  # filelock has a workaround for systems without such locks
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def lock_shared(file: IO[bytes]) -> None:
    """Lock a file while it is open; several processes can, and `is_in_use` reports it."""
    if fcntl is not None:
        with suppress(OSError):  # a file system without such locks
            fcntl.flock(file, fcntl.LOCK_SH)


def is_in_use(path: Path) -> bool:
    """Whether a process holds a file with `lock_shared`; False where that cannot be detected."""
    return path.is_file() and _try_lock(path, shared=False) is False


def _try_lock(path: Path, *, shared: bool) -> bool | None:
    """Whether a file can be locked, which a missing file can; None if the system has no such locks."""
    if fcntl is None:
        return None
    try:
        file = path.open("rb")
    except OSError:
        return True
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
    return True
