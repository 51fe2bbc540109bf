"""The processes of a run: rank, world size and collective operations."""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.logging import ROOT

T = TypeVar("T")

_MAX_DIGITS = 9
_PAUSE = 0.5
"""Seconds between two checks of the parent process."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TIMEOUT = timedelta(minutes=30)
"""Time to wait for other processes, which may be reading a dataset for the first time."""


class RemoteRankError(TekapctlError):
    """Another process has failed and has reported the reason."""

    is_told = True


class PeerLostError(TekapctlError):
    """Another process has died or cannot be reached."""


class Communicator:
    """The processes of a run; only the main process, rank 0, writes files and logs."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self._releases: list[Callable[[], None]] = []

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def all_gather(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows of every process, of which each has the number in `counts`."""
        if self.world_size == 1:
            return [rows]
        most = max(counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in counts]
        with self.translating_errors():
            dist.all_gather(found, padded)
        return [each[:count] for each, count in zip(found, counts, strict=True)]

    def all_reduce_sum(self, found: Tensor) -> Tensor:
        """The sum over the processes, in a new tensor."""
        if self.world_size == 1:
            return found
        found = found.detach().clone(memory_format=torch.contiguous_format)
        with self.translating_errors():
            dist.all_reduce(found)
        return found

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over the processes."""
        if self.world_size == 1 or not tensors:
            return
        flat = self.all_reduce_sum(torch.cat([tensor.detach().flatten() for tensor in tensors])).div_(self.world_size)
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The maximum of each value over the processes; exchanged on the CPU to avoid waiting for a device."""
        if self.world_size == 1:
            return list(values)
        found = torch.tensor(values)
        with self.translating_errors():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [int(value) for value in found.tolist()]

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        with self.translating_errors():
            dist.all_gather_object(found, value)
        return found

    def on_close(self, release: Callable[[], None]) -> None:
        """Register a function to call on `close`, which releases whatever holds connections."""
        if self.world_size > 1:
            self._releases.append(release)

    def close(self) -> None:
        """Destroy the process group and wait for its threads.

        A thread that frees its last message while the interpreter shuts down would abort the process.
        """
        while self._releases:
            self._releases.pop()()
        gc.collect()
        dist.destroy_process_group()

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise an error on all processes if one fails; only the first failed one reports it.

        Raises:
            RemoteRankError: Another process has failed.
        """
        if self.world_size == 1:
            yield
            return
        mine: TekapctlError | None = None
        try:
            yield
        except TekapctlError as error:
            mine = error
        failures = self.all_gather_object(None if mine is None else (mine.problem, mine.remedy, mine.exit_code))
        failed = [rank for rank, failure in enumerate(failures) if failure is not None]
        if mine is not None and failed[0] == self.rank:
            raise mine
        for rank in failed:
            problem, remedy, code = failures[rank] or ("", "", 1)
            elsewhere = RemoteRankError(problem, remedy)
            elsewhere.exit_code = code
            raise elsewhere

    def main_process_first(self, work: Callable[[], T]) -> T:
        """Do some work on the main process before the others, so they find the files that it writes."""
        found: list[T] = []
        with self.raise_together():
            if self.is_main:
                found.append(work())
        with self.raise_together():
            if not self.is_main:
                found.append(work())
        return found[0]

    @contextmanager
    def translating_errors(self) -> Iterator[None]:
        """Translate errors of the network into a `PeerLostError`."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_network_error(error):
                raise
            raise PeerLostError(
                f"Process {self.rank} of {self.world_size} lost another process, which has died or cannot be reached.",
                "Continue with `tekapctl resume RUN`, with any number of processes.",
            ) from None


SINGLE_PROCESS = Communicator()


def _is_network_error(error: RuntimeError) -> bool:
    words = ("gloo", "nccl", "connection", "socket", "timed out", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def check_environment() -> str | None:
    """Check the environment variables of a launcher; those of a single process are removed.

    Returns:
        The removed variables if they have unexpected values, for a warning.

    Raises:
        UsageError: They are incomplete or not numbers.
    """
    given = {name: _number(name, 0) for name in _VARIABLES if name in os.environ}
    size = given.get("WORLD_SIZE", 1)
    if size > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing or given["RANK"] >= size:
            what = f"no {' and '.join(missing)}" if missing else f"RANK {os.environ['RANK']}"
            raise UsageError(
                f"The environment has WORLD_SIZE {size}, but {what}.",
                "Start several processes with `processes` or torchrun, or `unset WORLD_SIZE`.",
            )
        return None
    removed = {name: os.environ.pop(name) for name in given}
    return ", ".join(f"{name}={value}" for name, value in removed.items() if value != str(int("SIZE" in name))) or None


def was_launched() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return _number("WORLD_SIZE", 1) > 1 and "RANK" in os.environ


def local_rank() -> int:
    """The rank of this process among those on this machine."""
    return _number("LOCAL_RANK", 0) if was_launched() else 0


def local_processes() -> int:
    """Number of processes of the run on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1)) if was_launched() else 1


def _number(name: str, default: int) -> int:
    """The integer in an environment variable of the launcher."""
    value = os.environ.get(name, str(default))
    if not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        shown = value if len(value) <= 20 else f"{value[:20]}..."
        raise UsageError(f"{name} in the environment is {shown!r}, not a number.", f"Unset it: `unset {name}`.")
    return int(value)


@contextmanager
def join_process_group() -> Iterator[Communicator]:
    """Join the process group of the launcher; without a launcher, this is a single process."""
    if not was_launched():
        yield SINGLE_PROCESS
        return
    check_environment()
    end_with_launcher()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    comm = Communicator(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if not comm.is_main:
        ROOT.setLevel(logging.ERROR)  # the main process logs
    with comm.translating_errors():
        dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield comm
    finally:
        comm.close()


@cache
def end_with_launcher() -> None:
    """Send SIGTERM to this process when its launcher is gone, since nothing else could stop it."""
    launcher = os.getppid()

    def wait() -> None:
        while os.getppid() == launcher:
            time.sleep(_PAUSE)

    _end_after(wait)


def end_with_parent() -> None:
    """Send SIGTERM to this process when its standard input is closed."""

    def wait() -> None:
        while os.read(0, 1):
            pass

    _end_after(wait)


def _end_after(wait: Callable[[], None]) -> None:
    def follow() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="watchdog", daemon=True).start()


def processors() -> int:
    """Number of CPU cores that this process may use; several processes of a run share them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // local_processes())
