"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor

from tekapctl.models import Network


class WeightAverage:
    """The average of a network's parameters and buffers over the steps of a run.

    After step t (from 0) the average moves by `1 - min(decay, (1 + t) / (10 + t))` towards the network's weights, so
    that it soon forgets the initial ones. Integers, such as the counters of batch norm, are copied.

    Args:
        network: The network, as it was initialised.
        decay: Decay of each step, in [0, 1).
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Take a step's weights into the average.

        Args:
            network: The network after the step.
            step: The step's number, from 0 where the student's stage begins. Before it the average is the network.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step)) if step >= 0 else 1.0
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(_tensors(self.network), _tensors(network), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, weight)


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
