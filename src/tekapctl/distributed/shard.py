"""Splits batches between processes, and combines their losses so that gradients equal those of one process."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator


def spans(count: int, size: int) -> tuple[tuple[int, int], ...]:
    """The first and last row (exclusive) of each of `size` processes in a batch of `count` samples.

    If there are fewer than two samples per process, every process gets the full batch: batch norm needs two samples.
    """
    if count < 2 * size:
        return ((0, count),) * size
    return tuple((rank * count // size, (rank + 1) * count // size) for rank in range(size))


@dataclass(frozen=True)
class BatchShard:
    """The samples of a batch that one process has.

    Processes average their gradients. To obtain the gradient of the full batch's loss, a loss that is a mean over
    samples is rescaled (`rescale`), and a loss that compares samples is computed from all samples (`gather`) in the
    same way on every process.

    Attributes:
        first: Index of the first sample in the batch.
        count: Number of samples in the shard; None for the full batch.
        of: Number of samples in the batch; None for the full batch of a single process.
        comm: The processes.
        offset: Index of the batch's first sample in the step's batch, of which it is a part if gradients accumulate.
    """

    first: int = 0
    count: int | None = None
    of: int | None = None
    comm: Communicator = SINGLE_PROCESS
    offset: int = 0

    @classmethod
    def of_batch(cls, count: int, comm: Communicator, offset: int = 0) -> "BatchShard":
        """This process's shard of a batch of `count` samples."""
        if comm.world_size == 1:
            return cls(offset=offset)
        first, end = spans(count, comm.world_size)[comm.rank]
        return cls(first, end - first, count, comm, offset)

    @property
    def start(self) -> int:
        """Index of the first sample in the step's batch, on which its random numbers depend."""
        return self.offset + self.first

    def rows(self, count: int) -> range:
        """The samples' indices in the step's batch; the batch of all processes has `count` samples."""
        return range(self.start, self.start + (count if self.count is None else self.count))

    @property
    def is_full_batch(self) -> bool:
        """Whether it is the full batch."""
        return self.count == self.of

    def samples(self, found: int) -> float | int:
        """The number to count in sums over the processes for the `found` samples of the shard."""
        return found if self.of is None else self.of / self.comm.world_size

    def rescale(self, mean: Tensor) -> Tensor:
        """Rescale a mean over the shard, so that its mean over the processes is the mean over the batch."""
        if self.is_full_batch or self.count is None or self.of is None:
            return mean
        weight = self.count * self.comm.world_size / self.of
        return mean if weight == 1 else mean * weight

    def gather(self, rows: Shaped[Tensor, "..."], dim: int = 0) -> Shaped[Tensor, "..."]:
        """The rows of all samples of the batch, in order, with gradients.

        Every process must compute the same loss of the result; then the gradient is correct.
        """
        if self.is_full_batch or self.of is None:
            return rows
        counts = [end - first for first, end in spans(self.of, self.comm.world_size)]
        gathered = _Gather.apply(rows.movedim(dim, 0), self.comm, counts)
        return gathered.movedim(0, dim)

    @torch.no_grad()
    def sum(self, found: Tensor) -> Tensor:
        """The sum over the batch, from the sum over the shard."""
        return found if self.is_full_batch else self.comm.all_reduce_sum(found)

    @torch.no_grad()
    def mean(self, found: Tensor) -> Tensor:
        """The mean over the batch, from the mean over the shard; without gradients."""
        if self.is_full_batch or self.count is None or self.of is None:
            return found
        return self.comm.all_reduce_sum(found * self.count) / self.of


FULL_BATCH = BatchShard()
"""The shard of a single process without accumulation."""


def micro_batches(count: int, parts: int) -> list[int]:
    """Sizes of the parts into which a step's batch is split.

    There are fewer parts where one would have less than two samples, which batch norm needs.
    """
    parts = max(1, min(parts, count // 2))
    return [(number + 1) * count // parts - number * count // parts for number in range(parts)]


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes; the gradient of a process's own rows is scaled by the world size."""

    @staticmethod
    def forward(ctx: object, rows: Tensor, comm: Communicator, counts: list[int]) -> Tensor:
        first = sum(counts[: comm.rank])
        ctx.own, ctx.size = slice(first, first + counts[comm.rank]), comm.world_size  # type: ignore[attr-defined]
        return torch.cat(comm.all_gather(rows, counts))

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # All processes compute the same loss, and their gradients are averaged, not summed.
        (gradient,) = gradients
        return gradient[ctx.own] * ctx.size, None, None  # type: ignore[attr-defined]
