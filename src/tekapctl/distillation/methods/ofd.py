"""OFD: regress the teacher's maps before their ReLU, with a margin ReLU and a partial distance.

Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019: margin ReLU (equation 3) and partial L2
distance (equation 6).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Map, Pairing
from tekapctl.distributed.shard import FULL_BATCH, BatchShard

_PAIRING = Pairing(preactivations=True, first=1)


@METHODS.register("ofd")
class OFDSpec(MethodSpec):
    """OFD has no settings but its weight."""

    weights = Weights(beta=1e-3)
    requires = Requires(preactivations=True)
    about = About(
        "A Comprehensive Overhaul of Feature Distillation",
        2019,
        "sum over stages of 2^-(stages after it) * sum (c(student) - max(teacher, m))^2 / batch, not where the student "
        "is below a negative teacher",
    )
    name: Literal["ofd"] = "ofd"

    def make(self, pair: Pair) -> "OFD":
        """OFD for a pair of networks."""
        pairs = _PAIRING(pair.student, pair.teacher)
        channels = [(p.student.shape[1], p.teacher.shape[1]) for p in pairs]
        norms = pair.teacher_norms[-len(pairs) :] if len(pair.teacher_norms) >= len(pairs) else ()
        return OFD(channels, [margin_of(norm) for norm in norms])


class OFD(Method):
    """The partial distances, with a connector for each stage.

    A channel's margin is the mean of the teacher's negative values: as published, that of a normal distribution with
    the mean and standard deviation of its batch norm. Without batch norms it is the mean of the values seen so far.

    Args:
        channels: The student's and the teacher's channels of each stage.
        margins: The margins of each stage; empty to estimate them from the images.
    """

    pairing = _PAIRING
    couples_samples = False

    def __init__(self, channels: list[tuple[int, int]], margins: Sequence[Float[Tensor, " _channels"]] = ()) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs)) for ours, theirs in channels
        )
        for connector in self.connectors:
            out = connector[0].out_channels  # type: ignore[index]
            nn.init.normal_(connector[0].weight, 0, (2 / out) ** 0.5)  # type: ignore[index]
        self.is_known = bool(margins)
        for number, margin in enumerate(margins):
            self.register_buffer(f"margin_{number}", margin)
        for number, (_, theirs) in enumerate([] if margins else channels):
            self.register_buffer(f"negative_sum_{number}", torch.zeros(theirs))
            self.register_buffer(f"negative_count_{number}", torch.zeros(theirs))

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over stages, each with half the weight of the next."""
        pairs = self.pairs(student, teacher)
        total = student.logits.new_zeros(())
        for number, (connect, pair) in enumerate(zip(self.connectors, pairs, strict=True)):
            margin = self._margin(number, pair.teacher, batch.shard)
            distance = partial_distance(connect(pair.student), pair.teacher, margin)
            total = total + 2.0 ** (number + 1 - len(pairs)) * distance
        return total

    @torch.no_grad()
    def _margin(self, number: int, teacher: Map, shard: BatchShard = FULL_BATCH) -> Float[Tensor, " channels"]:
        """The mean of the negative values of each channel."""
        if self.is_known:
            margin: Tensor = getattr(self, f"margin_{number}")
            return margin
        total, count = getattr(self, f"negative_sum_{number}"), getattr(self, f"negative_count_{number}")
        if self.training:
            total += shard.sum(teacher.clamp(max=0).sum((0, 2, 3)))
            count += shard.sum((teacher < 0).sum((0, 2, 3)))
        return total / count.clamp(min=1)


@torch.no_grad()
def margin_of(norm: nn.BatchNorm2d) -> Float[Tensor, " channels"]:
    """The mean of the negative values after a batch norm, for normally distributed inputs.

    As published, a channel with fewer than one negative value in a thousand has -3 standard deviations.

    Args:
        norm: A batch norm with weights and biases.
    """
    deviation, mean = norm.weight.double().abs(), norm.bias.double()
    ratio = mean / deviation
    share_below = torch.special.ndtr(-ratio)
    density = torch.exp(-(ratio.square()) / 2) / math.sqrt(2 * math.pi)
    margin = torch.where(share_below > 0.001, mean - deviation * density / share_below, -3 * deviation)
    return margin.to(norm.weight.dtype)


def partial_distance(student: Map, teacher: Map, margin: Float[Tensor, " channels"]) -> Float[Tensor, ""]:
    """Squared distances to the teacher's margin ReLU, summed over channels and places, averaged over the batch."""
    target = torch.maximum(teacher, margin.view(1, -1, 1, 1))
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).sum() / len(student)
