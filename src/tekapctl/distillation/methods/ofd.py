"""OFD: regress the teacher's maps before their ReLU, with a margin ReLU and a partial distance.

Heo et al., ICCV 2019: margin ReLU (equation 3) and partial L2 distance (equation 6).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl.distillation.methods import METHODS, About, Batch, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing
from tekapctl.distributed.shard import BatchShard


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
        return OFD(self, pair)


class OFD(FeatureMapMethod):
    """The partial distances, with a connector for each stage; each stage has half the weight of the next.

    A channel's margin is the mean of the teacher's negative values: as published, that of a normal distribution with
    the mean and standard deviation of its batch norm. Without batch norms it is the mean of the values seen so far.
    """

    pairing = Pairing(preactivations=True, first=1)

    def __init__(self, spec: OFDSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        pairs = self.pairs(pair.student, pair.teacher)
        channels = [(ours.shape[1], theirs.shape[1]) for ours, theirs in pairs]
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs)) for ours, theirs in channels
        )
        for connector, (_, theirs) in zip(self.connectors, channels, strict=True):
            nn.init.normal_(connector[0].weight, 0, (2 / theirs) ** 0.5)  # type: ignore[index]
        self.is_known = len(pair.teacher_norms) >= len(pairs)
        for number, norm in enumerate(pair.teacher_norms[-len(pairs) :] if self.is_known else ()):
            self.register_buffer(f"margin_{number}", margin_of(norm))
        for number, (_, theirs) in enumerate([] if self.is_known else channels):
            self.register_buffer(f"negative_sum_{number}", torch.zeros(theirs))
            self.register_buffer(f"negative_count_{number}", torch.zeros(theirs))

    def connect(self, number: int, student: Map) -> Map:
        found: Tensor = self.connectors[number](student)
        return found

    def pair_loss(self, number: int, ours: Map, teacher: Map, batch: Batch) -> Float[Tensor, ""]:
        weight = 2.0 ** (number + 1 - len(self.connectors))
        margin = self._margin(number, teacher, batch.shard)
        return weight * partial_distance(ours, teacher, margin)

    @torch.no_grad()
    def _margin(self, number: int, teacher: Map, shard: BatchShard) -> Float[Tensor, " channels"]:
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
