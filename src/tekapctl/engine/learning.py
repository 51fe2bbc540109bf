"""A learner and its objective as one module: a batch in, the parts of its loss out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.data.batches import Batch
from tekapctl.engine.clock import Clock, no_clock
from tekapctl.engine.device import autocast, compile_for
from tekapctl.engine.objective import Objective, Parts
from tekapctl.knowledge import of_batch
from tekapctl.models import Network


class Learning(nn.Module):
    """What a step computes before its backward pass.

    Args:
        network: The learner.
        objective: Its loss.
        device: Where both are.
        precision: Precision of the learner's passes.
        compiled: Compile the learner for the device.
    """

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
        """The parts of the loss, and the learner's logits."""
        with autocast(self.device, self.precision):
            with self.clock("student forward"), torch.set_grad_enabled(self.objective.trains_learner):
                knowledge = of_batch(self._knowledge, self.network.normalize, batch, self.objective.needs)
            return self.objective(knowledge, batch), knowledge.logits
