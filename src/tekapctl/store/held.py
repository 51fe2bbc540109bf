"""Whether a process holds a lock, asked without getting in anybody's way."""

from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def is_held(lock: Path) -> bool:
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


def _can_be_taken(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False
