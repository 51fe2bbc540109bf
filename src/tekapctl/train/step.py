"""The forward pass and loss of a training step, and the sums of an epoch's metrics."""

import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.data.batch import Batch
from tekapctl.device import autocast, compile_for
from tekapctl.distillation.objective import Objective, Parts
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.models import Network
from tekapctl.models.knowledge import of_batch
from tekapctl.timing import Clock, no_clock


class TrainStep(nn.Module):
    """The forward pass of the trained network and its loss."""

    clock: Clock = staticmethod(no_clock)

    def __init__(
        self, network: Network, objective: Objective, device: torch.device, precision: torch.dtype, *, compiled: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.device = device
        self.precision = precision
        self._knowledge = compile_for(device, network.knowledge) if compiled else network.knowledge

    def forward(self, batch: Batch) -> tuple[Parts, Float[Tensor, "batch classes"]]:
        """The parts of the loss, and the network's logits."""
        with autocast(self.device, self.precision):
            with self.clock("student forward"), torch.set_grad_enabled(self.objective.trains_learner):
                knowledge = of_batch(self._knowledge, self.network.normalize, batch, self.objective.requires)
            return self.objective(knowledge, batch), knowledge.logits


Metrics = dict[str, float | int]


class EpochSums:
    """Sums of the loss's parts and of correct predictions, and the first step whose loss was not finite.

    A step's parts are added as one vector, in place: a CUDA graph that has recorded this adds to the same sums. Each
    process sums over its own samples. What is given besides the device and the processes is of an epoch that was
    interrupted.
    """

    def __init__(
        self,
        device: torch.device,
        sums: dict[str, Tensor] | None = None,
        samples: float | int = 0,
        seconds: float = 0.0,
        bad_step: Tensor | None = None,
        bad_parts: Tensor | None = None,
        comm: Communicator = SINGLE_PROCESS,
    ) -> None:
        self.comm = comm
        self.samples = samples
        self._names = tuple(sums or ())
        self._sums = torch.stack(list(sums.values())) if sums else torch.zeros(0, device=device)
        self._before = seconds
        self._began: float | None = None
        self._step = torch.tensor(0, device=device)
        self._bad_step = torch.tensor(-1, device=device) if bad_step is None else bad_step
        self._bad_parts = torch.zeros_like(self._sums) if bad_parts is None else bad_parts

    def begin(self) -> None:
        """Start or resume the clock of the epoch."""
        self._before, self._began = self.seconds, time.perf_counter()

    def clear(self) -> None:
        """Start with a new epoch."""
        self.samples, self._before, self._began = 0, 0.0, None
        self._sums.zero_()
        self._bad_step.fill_(-1)
        self._bad_parts.zero_()

    @property
    def seconds(self) -> float:
        """Time that the epoch has taken, without interruptions."""
        return self._before + (time.perf_counter() - self._began if self._began is not None else 0.0)

    def begin_step(self, step: int, count: float | int) -> None:
        """Begin a step of the epoch, counted from 0; its parts are added next.

        The count is that of its images, or of those that a process's shard stands for.
        """
        self.samples += count
        self._step.fill_(step)

    def add(self, parts: dict[str, Tensor], count: float | int) -> None:
        """Add the parts of a step, means over its batch with `correct` last. This is work of the device alone."""
        values = torch.stack([value.float() for value in parts.values()])
        if self._names != tuple(parts):  # the first step of a stage
            self._names, self._sums, self._bad_parts = tuple(parts), torch.zeros_like(values), torch.zeros_like(values)
        self._sums.add_(values, alpha=count)
        total = values.sum()
        is_first = ((total - total) != 0) & (self._bad_step < 0)  # infinity - infinity is not 0
        torch.where(is_first, self._step, self._bad_step, out=self._bad_step)
        torch.where(is_first, values, self._bad_parts, out=self._bad_parts)

    def means(self) -> dict[str, float]:
        """Means over the epoch's images, of all processes; waits for the device."""
        return self._named(self._total() / self.all_samples)

    @property
    def all_samples(self) -> float | int:
        """Images so far, of all processes."""
        return self.samples * self.comm.world_size

    def first_not_finite(self) -> tuple[int, dict[str, float]] | None:
        """The first step whose loss was not finite on any process, with the loss's parts; waits for the device."""
        step = int(self._bad_step)
        mine = (step, self._named(self._bad_parts)) if step >= 0 else None
        found = [each for each in self.comm.all_gather_object(mine) if each is not None]
        if not found:
            return None
        step, parts = min(found, key=lambda each: each[0])
        parts.pop("correct", None)
        return step, parts

    def _named(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self._names, values.tolist(), strict=True))

    def _total(self) -> Tensor:
        """The sums over all processes."""
        return self.comm.all_reduce_sum(self._sums) if self._names else self._sums

    def split(self) -> "EpochSums":
        """Divide the sums among the processes."""
        self._sums /= self.comm.world_size
        self.samples /= self.comm.world_size
        return self

    def state(self) -> dict[str, Any]:
        """The sums over all processes, for a checkpoint."""
        return {
            "sums": dict(zip(self._names, self._total().clone(), strict=True)),
            "samples": self.all_samples,
            "seconds": self.seconds,
            "bad_step": self._bad_step.clone(),
            "bad_parts": self._bad_parts.clone(),
        }
