"""A file that a user named, written aside until it is known to be good."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tekapctl.errors import TekapctlError
from tekapctl.store.files import explain, flush_folder


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A neighbour of `path` to write to: renamed to it where the block ends well, deleted where it raises.

    Args:
        path: Where the file goes; its folder is made.

    Raises:
        TekapctlError: The disk is full, or the folder cannot be written.
    """
    # Some readers go by the suffix.
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise TekapctlError(explain(error, path).problem, "Free space, or name a file elsewhere.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
