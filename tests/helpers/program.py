"""The program in processes of its own that start at once, so that many can be killed in little time.

A fork server imports everything once; each run of the program is a child of it, killed and waited for like any process.
"""

import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

from helpers.result import Result
from helpers.waiting import until

CONTEXT = multiprocessing.get_context("forkserver")


@functools.cache
def start_server() -> None:
    """Start the fork server where it finds `preloaded`: it does not take over this process's `sys.path`."""
    CONTEXT.set_forkserver_preload(["helpers.preloaded"])
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    # With memory in huge pages, where the system has them, a fork copies a fraction of the page tables.
    huge = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": path, **huge})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Started:
    """A running program.

    Args:
        home: Its home folder.
        arguments: Its command line.
        files: Where its output goes.
        variables: Its environment, besides this process's.
        before: Is called in the new process before the program.
    """

    def __init__(
        self,
        home: Path,
        arguments: tuple[str, ...],
        files: Path,
        variables: dict[str, str],
        before: Callable[[], None] | None = None,
    ):
        start_server()
        files.mkdir(parents=True, exist_ok=True)
        self.out, self.err = files / "out", files / "err"
        for file in (self.out, self.err):
            file.touch()  # there may be no time for the program to do it
        environment = {**os.environ, "TEKAPCTL_HOME": str(home), "OMP_NUM_THREADS": "1", **variables}
        self.process = CONTEXT.Process(
            target=_run, args=(arguments, self.out, self.err, environment, Path.cwd(), before)
        )
        self.process.start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; fail if the program ends first."""
        until(holds, self.process.is_alive)

    def wait(self) -> Result:
        self.process.join()
        assert self.process.exitcode is not None
        return Result(self.process.exitcode, self.out.read_text(), self.err.read_text())


def _run(
    arguments: tuple[str, ...],
    out: Path,
    err: Path,
    environment: dict[str, str],
    folder: Path,
    before: Callable[[], None] | None,
) -> None:
    # The files stand in for the terminal, down to what the system and the libraries write.
    files = [os.open(os.devnull, os.O_RDONLY), *(os.open(path, os.O_WRONLY | os.O_TRUNC) for path in (out, err))]
    become(arguments, environment, folder, files, before)


def become(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: Path,
    files: Sequence[int],
    before: Callable[[], None] | None = None,
) -> None:
    """Make this forked process the program.

    Args:
        arguments: Its command line.
        environment: Its environment.
        folder: Where it works.
        files: Its standard input, output and error.
        before: Is called right before the program.
    """
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.executable = environment.get("QUICK_PYTHON", sys.executable)
    torch.set_num_threads(1)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", 0), write_through=True) for n in (1, 2))
    from helpers.preloaded import COMMAND
    from tekapctl.cli import console

    importlib.reload(console)  # it has looked at the output and the environment
    with contextlib.suppress(KeyError):
        del os.environ["PYTEST_CURRENT_TEST"]
    sys.argv = ["tekapctl", *arguments]
    if before:
        before()
    COMMAND(list(arguments))


def start(home: Path, *arguments: str, **variables: str) -> Started:
    """Start the program."""
    return Started(home, arguments, home.parent / f"{home.name}-output" / secrets.token_hex(4), variables)


def run(home: Path, *arguments: str, **variables: str) -> Result:
    """Run the program to its end."""
    return start(home, *arguments, **variables).wait()
