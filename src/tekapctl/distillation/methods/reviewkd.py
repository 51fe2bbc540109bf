"""ReviewKD: regress the teacher's stages from the student's, each fused with all deeper ones.

Chen et al., CVPR 2021: attention-based fusion and the hierarchical context loss of section 3.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, MapPair, Pairing
from tekapctl.distillation.methods.losses import entropy_weights
from tekapctl.settings import Epochs

_LEVELS = (4, 2, 1)
Pooled = list[Map]
"""A map, and the map pooled to each smaller one of the context loss's sizes."""


@METHODS.register("reviewkd")
class ReviewKDSpec(MethodSpec):
    """ReviewKD's settings."""

    weights = Weights(beta=5.0)
    requires = Requires(embedding=True, feature_maps=True, preactivations=True)
    about = About(
        "Distilling Knowledge via Knowledge Review",
        2021,
        "sum over stages of the mean square difference at their size and, counting half each, pooled to 4, 2 and 1",
        "reads the student's maps after their ReLU, as published for CIFAR-100; use student_maps=before for ImageNet",
    )
    name: Literal["reviewkd"] = "reviewkd"
    most_channels: int = Field(512, ge=1, le=65536, description="Maximum number of channels in which stages are fused.")
    student_maps: Literal["after", "before"] = Field(
        "after", description="The student's maps: after or before their ReLU. The teacher's are always before it."
    )
    entropy_weights: bool = Field(False, description="Weight samples by entropy, as in EA-KD.")
    warmup_epochs: Epochs = Field(20, description="Epochs until the weight reaches 1.")

    def make(self, pair: Pair) -> "ReviewKD":
        return ReviewKD(self, pair)


class ReviewKD(FeatureMapMethod):
    """The review mechanism, with a fusion for each stage, first to last."""

    pairing = Pairing(first=1, pooled=False)

    def __init__(self, spec: ReviewKDSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        self.warmup = pair.warmup(spec.warmup_epochs)
        pairs = self.pairs(pair.student, pair.teacher)
        middle = min(spec.most_channels, pairs[-1].student.shape[1])
        self.fusions = nn.ModuleList(
            Fusion(maps.student.shape[1], middle, maps.teacher.shape[1], fuses=number < len(pairs) - 1)
            for number, maps in enumerate(pairs)
        )

    def pairs(self, student: Knowledge, teacher: Knowledge) -> list[MapPair]:
        """Maps of all stages but the first, and the embeddings as 1x1 maps."""
        ours = student.feature_maps if self.spec.student_maps == "after" else student.preactivations
        maps = self.pairing(ours, teacher.preactivations)
        return [*maps, MapPair(student.embedding[:, :, None, None], teacher.embedding[:, :, None, None])]

    def student_side(self, student: Knowledge, teacher: Knowledge) -> tuple[Knowledge, list[Pooled]]:
        """The student, for the pairs, and its predictions of the teacher's maps, last to first."""
        predictions, fused = [], None
        for fusion, pair in zip(reversed(self.fusions), reversed(self.pairs(student, teacher)), strict=True):
            out, fused = fusion(pair.student, fused, pair.teacher.shape[2:])
            predictions.append(pooled(out))
        return student, predictions

    def compare(self, ours: tuple[Knowledge, list[Pooled]], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        student, predictions = ours
        weights = entropy_weights(student.logits, teacher.logits) if self.spec.entropy_weights else None
        total = student.logits.new_zeros(())
        for prediction, pair in zip(predictions, reversed(self.pairs(student, teacher)), strict=True):
            total = total + context_loss(prediction, pair.teacher, weights)
        return self.warmup(batch.step) * total


class Fusion(nn.Module):
    """Fuses a stage with all deeper ones by an attention at each place.

    Args:
        channels: Channels of the student's map.
        middle: Channels in which both are fused.
        out: Channels of the teacher's map.
        fuses: Whether there are deeper stages.
    """

    def __init__(self, channels: int, middle: int, out: int, *, fuses: bool) -> None:
        super().__init__()
        enter = nn.Conv2d(channels, middle, 1, bias=False)
        leave = nn.Conv2d(middle, out, 3, padding=1, bias=False)
        for conv in (enter, leave):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.conv1 = nn.Sequential(enter, nn.BatchNorm2d(middle))
        self.conv2 = nn.Sequential(leave, nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, maps: Map, deeper: Map | None, size: Sequence[int]) -> tuple[Map, Map]:
        """The prediction of the teacher's map, and the fused map, which the next stage takes as `deeper`.

        Args:
            maps: The student's map.
            deeper: The fused map of the next deeper stage.
            size: Height and width of the teacher's map.
        """
        own = self.conv1(maps)
        if self.attention is not None and deeper is not None:
            other = _resized(deeper, own.shape[2:])
            share = self.attention(torch.cat([own, other], dim=1))
            own = own * share[:, :1] + other * share[:, 1:]
        own = _resized(own, size)
        return self.conv2(own), own


def _resized(maps: Map, size: Sequence[int]) -> Map:
    return maps if tuple(maps.shape[2:]) == tuple(size) else F.interpolate(maps, size=tuple(size), mode="nearest")


def pooled(maps: Map) -> Pooled:
    """A map at all sizes of the context loss."""
    return [maps, *(F.adaptive_avg_pool2d(maps, size) for size in _LEVELS if size < maps.shape[2])]


def context_loss(student: Pooled, teacher: Map, weights: Float[Tensor, " batch"] | None = None) -> Float[Tensor, ""]:
    """The hierarchical context loss of one stage, with a weight for each sample or none."""

    def distance(ours: Map, theirs: Map) -> Float[Tensor, ""]:
        if weights is None:
            return F.mse_loss(ours, theirs)
        return (weights * (ours - theirs).square().flatten(1).mean(1)).mean()

    (full, *smaller), (same, *theirs) = student, pooled(teacher)
    total, weight, all_weights = distance(full, same), 1.0, 1.0
    for one, other in zip(smaller, theirs, strict=True):
        weight /= 2
        total = total + weight * distance(one, other)
        all_weights += weight
    return total / all_weights
