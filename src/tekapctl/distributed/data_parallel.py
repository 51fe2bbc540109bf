"""Data-parallel backward passes: gradients are averaged over the processes."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tekapctl.distributed.communicator import Communicator

# Buffers (memory banks, running statistics) are not synchronised here. The setting's name depends on the version.
_SETTINGS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _SETTINGS): False
}


class DataParallelStep:
    """Averages the gradients of a module over the processes after each backward pass.

    The first backward pass is averaged explicitly and shows which parameters have gradients; from the second pass on
    `DistributedDataParallel` averages these during the backward pass.

    Args:
        module: The module, with equal weights on all processes.
        comm: The processes.
    """

    def __init__(self, module: nn.Module, comm: Communicator) -> None:
        self.module = module
        self.comm = comm
        self._parallel: DistributedDataParallel | None = None
        comm.on_close(self.reset)

    def reset(self) -> None:
        """Call this when other parameters get gradients from now on."""
        self._parallel = None

    def __call__(self, *inputs: Any) -> Any:
        """Run the module."""
        return self.module(*inputs) if self._parallel is None else self._parallel(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Compute averaged gradients of a loss that the module returned.

        Raises:
            PeerLostError: Another process has died or cannot be reached.
        """
        if self.comm.world_size == 1:
            loss.backward()
            return
        with self.comm.translating_errors():
            loss.backward()
            if self._parallel is None:
                self.comm.all_reduce_mean([p.grad for p in self.module.parameters() if p.grad is not None])
                self._parallel = self._wrap()

    def average(self, gradients: Sequence[Tensor | None]) -> None:
        """Average gradients that were computed in another way."""
        self.comm.all_reduce_mean([gradient for gradient in gradients if gradient is not None])

    def _wrap(self) -> DistributedDataParallel:
        idle = [p for p in self.module.parameters() if p.requires_grad and p.grad is None]
        for parameter in idle:
            parameter.requires_grad_(False)
        try:
            return DistributedDataParallel(self.module, gradient_as_bucket_view=True, **_NO_BUFFERS)
        finally:
            for parameter in idle:
                parameter.requires_grad_(True)
