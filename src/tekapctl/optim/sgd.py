"""SGD, and what every optimizer here can do: take a step along the gradient of a loss given in parts."""

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
            parallel: The module that gave them; averages gradients over the processes.
            clock: Times both phases.
        """
        with clock("backward"):
            self.zero_grad(set_to_none=True)
            parallel.backward(torch.stack(list(parts.values())).sum())
        with clock("optimizer"):
            self.step()
