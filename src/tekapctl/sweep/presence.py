"""Which processes carry out a sweep, so that another one can tell them to stop."""

import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock

from tekapctl.store.files import make_folder
from tekapctl.store.held import is_held
from tekapctl.sweep.folder import SweepFolder


@contextmanager
def present(folder: SweepFolder) -> Iterator[None]:
    """Be known as a process that carries out the sweep."""
    path = make_folder(folder.path / "processes") / f"{platform.node()}+{os.getpid()}"
    try:
        with FileLock(path):
            yield
    finally:
        path.unlink(missing_ok=True)


def stop_all(folder: SweepFolder, say: Callable[[str], None]) -> int:
    """Tell all processes of this machine that carry out the sweep to stop; returns how many.

    Args:
        folder: The sweep's folder.
        say: Is told of those that are elsewhere.
    """
    told = 0
    for path in sorted((folder.path / "processes").glob("*+*")):
        machine, _, process = path.name.rpartition("+")
        if not is_held(path):
            path.unlink(missing_ok=True)  # it was killed
        elif machine != platform.node():
            say(f"a process on {machine} carries it out too: cancel it there")
        else:
            os.kill(int(process), signal.SIGTERM)
            told += 1
    return told
