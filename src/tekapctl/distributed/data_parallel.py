"""How the gradients of several processes become one."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tekapctl.distributed.communicator import Communicator

# Memory banks and running statistics are buffers, and none of its business. Newer versions have renamed the setting.
_SETTINGS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _SETTINGS): False
}


class DataParallelStep:
    """A module whose gradients are the means over the processes after each backward pass.

    The first pass is averaged by hand and shows which parameters take part; from the second on
    `DistributedDataParallel` averages these while the backward pass is still under way.

    Args:
        module: The module, with equal weights on all processes.
        comm: The processes.
    """

    def __init__(self, module: nn.Module, comm: Communicator) -> None:
        self.module = module
        self.comm = comm
        self._parallel: DistributedDataParallel | None = None
        comm.at_end(self.forget)

    def forget(self) -> None:
        """From now on other parameters may take part."""
        self._parallel = None

    def __call__(self, *inputs: Any) -> Any:
        """What the module gives."""
        return self.module(*inputs) if self._parallel is None else self._parallel(*inputs)

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss that the module gave.

        Raises:
            PeerLostError: Another process is gone.
        """
        if self.comm.size == 1:
            loss.backward()
            return
        with self.comm.translating_errors():
            loss.backward()
            if self._parallel is None:
                self.comm.average([p.grad for p in self.module.parameters() if p.grad is not None])
                self._parallel = self._wrap()

    def average(self, gradients: Sequence[Tensor | None]) -> None:
        """Replace gradients that were found in another way by their means over the processes."""
        self.comm.average([gradient for gradient in gradients if gradient is not None])

    def _wrap(self) -> DistributedDataParallel:
        idle = [p for p in self.module.parameters() if p.requires_grad and p.grad is None]
        for parameter in idle:
            parameter.requires_grad_(False)
        try:
            return DistributedDataParallel(self.module, gradient_as_bucket_view=True, **_NO_BUFFERS)
        finally:
            for parameter in idle:
                parameter.requires_grad_(True)
