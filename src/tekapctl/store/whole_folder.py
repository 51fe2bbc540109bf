"""Folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tekapctl.store.files import explain, make_folder


@contextmanager
def whole_folder(folder: Path, inside: str = ".") -> Iterator[Path]:
    """A new folder to fill, which takes the place of what was there when the block ends well.

    Args:
        folder: Its place; no other process fills it meanwhile.
        inside: The folder in the new one that is kept.

    Raises:
        TekapctlError: The disk is full or cannot be written.
    """
    make_folder(folder.parent)
    new = folder.with_name(f".{folder.name}.part")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        try:
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
            new.mkdir()
            yield new
            if folder.is_dir():
                shutil.rmtree(folder)
            (new / inside).resolve().rename(folder)
        except OSError as error:
            raise explain(error, folder) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
