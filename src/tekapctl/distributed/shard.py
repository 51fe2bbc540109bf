"""Which samples of a batch a process has, and how its losses reach those of the others."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator


def spans(count: int, size: int) -> tuple[tuple[int, int], ...]:
    """From where to where each process's rows of a batch go.

    A batch with less than two samples for each process is everybody's, as a whole: a batch norm needs two.

    Args:
        count: Samples in the batch.
        size: Number of processes.
    """
    if count < 2 * size:
        return ((0, count),) * size
    return tuple((rank * count // size, (rank + 1) * count // size) for rank in range(size))


@dataclass(frozen=True)
class BatchShard:
    """A process's share of a batch; what a loss averages over the share is turned into its part of the whole's mean.

    Processes average their gradients. So that this gives the gradient of the whole batch's loss, a loss that is a mean
    over samples is weighed (`weigh`), and one that compares samples with each other is computed from all samples
    (`whole`), alike on every process.

    Attributes:
        first: The first sample's place in the batch.
        count: Samples in the share; None for all.
        of: Samples in the batch; None for as many.
        comm: The processes.
    """

    first: int = 0
    count: int | None = None
    of: int | None = None
    comm: Communicator = SINGLE_PROCESS

    @classmethod
    def of_batch(cls, count: int, comm: Communicator) -> "BatchShard":
        """This process's share of a batch of so many samples."""
        if comm.size == 1:
            return cls()
        first, end = spans(count, comm.size)[comm.rank]
        return cls(first, end - first, count, comm)

    @property
    def rows(self) -> slice:
        """Where the share is in the batch."""
        return slice(self.first, None if self.count is None else self.first + self.count)

    @property
    def is_full_batch(self) -> bool:
        """Whether it is the whole batch."""
        return self.count == self.of

    def samples(self, found: int) -> float | int:
        """How many samples the share counts for in sums over the processes.

        Args:
            found: Samples in the share.
        """
        return found if self.of is None else self.of / self.comm.size

    def rescale(self, mean: Tensor) -> Tensor:
        """A mean over the share's samples, so that the mean over the processes is that over the batch's."""
        if self.is_full_batch or self.count is None or self.of is None:
            return mean
        weight = self.count * self.comm.size / self.of
        return mean if weight == 1 else mean * weight

    def gather(self, rows: Shaped[Tensor, "..."], dim: int = 0) -> Shaped[Tensor, "..."]:
        """The rows of all samples of the batch, in the batch's order.

        A loss of what this gives must be computed alike on every process; its gradient then is right.

        Args:
            rows: One for each sample of the share.
            dim: Where the samples are.
        """
        if self.is_full_batch or self.of is None:
            return rows
        counts = [end - first for first, end in spans(self.of, self.comm.size)]
        gathered = _Gather.apply(rows.movedim(dim, 0), self.comm, counts)
        return gathered.movedim(0, dim)

    @torch.no_grad()
    def sum(self, found: Tensor) -> Tensor:
        """A sum over the share's samples, summed over the batch's."""
        return found if self.is_full_batch else self.comm.total(found)

    @torch.no_grad()
    def mean(self, found: Tensor) -> Tensor:
        """A mean over the share's samples, averaged over the batch's; without a gradient."""
        if self.is_full_batch or self.count is None or self.of is None:
            return found
        return self.comm.total(found * self.count) / self.of


FULL_BATCH = BatchShard()
"""The whole of a batch: what a process alone has."""


class _Gather(torch.autograd.Function):
    """Every process gets the rows of all; its own rows' gradient is its part of the others' and its own."""

    @staticmethod
    def forward(ctx: object, rows: Tensor, comm: Communicator, counts: list[int]) -> Tensor:
        first = sum(counts[: comm.rank])
        ctx.own, ctx.size = slice(first, first + counts[comm.rank]), comm.size  # type: ignore[attr-defined]
        return torch.cat(comm.gather(rows, counts))

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The same loss is computed everywhere, and the processes' gradients will be averaged, not summed.
        (gradient,) = gradients
        return gradient[ctx.own] * ctx.size, None, None  # type: ignore[attr-defined]
