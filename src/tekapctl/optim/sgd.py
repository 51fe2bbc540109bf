"""SGD with `minimize`, the backward pass and step of a loss given in parts, which every optimizer here has."""

import torch
from torch import Tensor

from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.timing import Clock


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` of the sum of a loss's parts."""

    def minimize(self, parts: dict[str, Tensor], parallel: DataParallelStep, clock: Clock) -> None:
        """Backward pass and step.

        Args:
            parts: Weighted parts of the loss, by name.
            parallel: The module that computed them; averages gradients over the processes.
            clock: Times both phases.
        """
        with clock("backward"):
            self.zero_grad(set_to_none=True)
            parallel.backward(torch.stack(list(parts.values())).sum())
        with clock("optimizer"):
            self.step()
