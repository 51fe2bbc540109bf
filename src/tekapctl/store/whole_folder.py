"""Folders that appear whole or not at all."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tekapctl.store.files import delete, explain, flush_folder, make_folder

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
def whole_folder(folder: Path) -> Iterator[Path]:
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
