"""An exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor

from tekapctl.models import Network


class WeightAverage:
    """The average of a network's parameters and buffers over the steps of a run.

    After step t (from 0) the average moves by `1 - min(decay, (1 + t) / (10 + t))` towards the network's weights, so
    that it soon forgets the initial ones. Integers, such as the counters of batch norm, are copied.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Take the weights after a step, counted from where the student's stage begins, into the average.

        Before that stage the average is the network.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step)) if step >= 0 else 1.0
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        averages, values = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        torch._foreach_lerp_(averages, values, weight)
        copies, counts = _columns([pair for pair in pairs if not pair[0].is_floating_point()])
        if copies:
            torch._foreach_copy_(copies, counts)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
