"""The processes of a run: which of them this is, and what they tell each other."""

import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tekapctl.distributed.watchdog import end_with_launcher
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.logging import ROOT

T = TypeVar("T")

_MOST_DIGITS = 9
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, which may be reading a data set for the first time."""


class RemoteRankError(TekapctlError):
    """Another process has failed, and has said why."""

    is_told = True


class PeerLostError(TekapctlError):
    """Another process is gone."""


class Communicator:
    """The processes of a run; the first leads: it alone writes and speaks.

    Args:
        rank: This process's number, from 0.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._releases: list[Callable[[], None]] = []

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def gather(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Every process's rows.

        Args:
            rows: This process's.
            counts: How many each has.
        """
        if self.size == 1:
            return [rows]
        most = max(counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in counts]
        with self.translating_errors():
            dist.all_gather(found, padded)
        return [each[:count] for each, count in zip(found, counts, strict=True)]

    def total(self, found: Tensor) -> Tensor:
        """The sum over the processes, in a tensor of its own."""
        if self.size == 1:
            return found
        found = found.detach().clone(memory_format=torch.contiguous_format)
        with self.translating_errors():
            dist.all_reduce(found)
        return found

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over the processes."""
        if self.size == 1 or not tensors:
            return
        flat = self.total(torch.cat([tensor.detach().flatten() for tensor in tensors])).div_(self.size)
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The greatest of each value over the processes; exchanged on the CPU, so that no device is waited for."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values)
        with self.translating_errors():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [int(value) for value in found.tolist()]

    def all_gather_object(self, value: T) -> list[T]:
        """What each process says."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self.translating_errors():
            dist.all_gather_object(found, value)
        return found

    def at_end(self, release: Callable[[], None]) -> None:
        """Have this called when the team parts: it must let go of what holds the connections."""
        if self.size > 1:
            self._releases.append(release)

    def part(self) -> None:
        """Let go of the connections, and wait for the threads that serve them.

        One of these that frees its last message while the interpreter ends would abort the process.
        """
        while self._releases:
            self._releases.pop()()
        gc.collect()
        dist.destroy_process_group()

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """All processes fail here if one does; only the first that does has something to say.

        Raises:
            RemoteRankError: Another one has failed.
        """
        mine: TekapctlError | None = None
        try:
            yield
        except TekapctlError as error:
            if self.size == 1:
                raise
            mine = error
        if self.size == 1:
            return
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
        """Do some work, the leader before the others, so that what it leaves on the disk need not be made twice."""
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
        """Turn the loss of another process into words.

        Raises:
            PeerLostError: One is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_of_the_network(error):
                raise
            raise PeerLostError(
                f"Process {self.rank} of {self.size} has lost another one, which has died or cannot be reached.",
                "Go on with `tekapctl resume RUN`, with as many processes as you like.",
            ) from None


SINGLE_PROCESS = Communicator()


def _is_of_the_network(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    said = str(error).lower()
    return any(word in said for word in ("gloo", "nccl", "connection", "socket", "timed out", "broken pipe"))


def check_environment() -> str | None:
    """Look at what a launcher leaves in the environment; of a single process it is taken away.

    Returns:
        What was taken away, where it may be left from something else.

    Raises:
        UsageError: It is that of several processes, and incomplete or no numbers.
    """
    given = {name: os.environ[name] for name in _NUMBERS if name in os.environ}
    for name in given:
        _number(name, 0)
    size = _number("WORLD_SIZE", 1)
    if size > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing or int(given["RANK"]) >= size:
            what = f"{' and '.join(missing)} missing" if missing else f"RANK {given['RANK']}"
            raise UsageError(
                f"The environment has WORLD_SIZE {size} with {what}.",
                "Start several processes with --nproc or torchrun, or `unset WORLD_SIZE`.",
            )
        return None
    for name in given:
        del os.environ[name]
    odd = [f"{name}={value}" for name, value in given.items() if value != ("1" if "SIZE" in name else "0")]
    return ", ".join(odd) or None


def was_launched() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return _number("WORLD_SIZE", 1) > 1 and "RANK" in os.environ


def local_rank() -> int:
    """This process's number among those of the run on this machine."""
    return _number("LOCAL_RANK", 0) if was_launched() else 0


def local_processes() -> int:
    """How many processes of the run this machine has."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1)) if was_launched() else 1


def _number(name: str, default: int) -> int:
    """An integer from the launcher's environment variables.

    Raises:
        UsageError: It is none.
    """
    value = os.environ.get(name, str(default))
    if not value.isascii() or not value.isdigit() or len(value) > _MOST_DIGITS:
        shown = value if len(value) <= 20 else f"{value[:20]}..."
        raise UsageError(f"{name} in the environment is {shown!r}, not a number.", f"Unset it: `unset {name}`.")
    return int(value)


@contextmanager
def join_process_group() -> Iterator[Communicator]:
    """The team that a launcher has made of several processes, or this process alone."""
    if not was_launched():
        yield SINGLE_PROCESS
        return
    check_environment()
    end_with_launcher()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    comm = Communicator(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if not comm.is_main:
        ROOT.setLevel(logging.ERROR)  # one process speaks for all
    with comm.translating_errors():
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield comm
    finally:
        comm.part()


def processors() -> int:
    """Those that this process may use; several processes of a run share them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // local_processes())
