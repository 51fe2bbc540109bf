"""VID: the student's maps are to tell as much as possible of the teacher's.

Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, equation 5: a Gaussian with a
learned variance for each of the teacher's channels.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distill.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires
from tekapctl.distill.methods.feature_maps import MapPair, pair_maps

EPSILON = 1e-5


@METHODS.register("vid")
class VIDSpec(MethodSpec):
    """VID's settings."""

    requires = Requires(feature_maps=True)
    about = About(
        "Variational Information Distillation for Knowledge Transfer",
        2019,
        "sum over stages of mean ((m(student) - teacher)^2 / v + log v) / 2, m = three 1x1 convolutions",
    )
    name: Literal["vid"] = "vid"
    variance: float = Field(5.0, gt=EPSILON, le=1e6, description="The variance before the first step.")

    def make(self, pair: Pair) -> "VID":
        """VID for a pair of networks."""
        pairs = pair_maps(pair.student.feature_maps, pair.teacher.feature_maps, first=1)
        return VID([Predictor(p.student.shape[1], p.teacher.shape[1], self.variance) for p in pairs])


class Predictor(nn.Module):
    """What the student's map of one stage tells of the teacher's.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's.
        variance: The variance before the first step.
    """

    def __init__(self, student_channels: int, teacher_channels: int, variance: float) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        # Softplus of it, plus epsilon, is the variance.
        start = variance - EPSILON + math.log(-math.expm1(EPSILON - variance))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    def forward(self, pair: MapPair) -> Float[Tensor, ""]:
        """The negative log-likelihood of the teacher's map, but for a constant."""
        variance = (F.softplus(self.log_scale) + EPSILON).view(1, -1, 1, 1)
        error = (self.regressor(pair.student) - pair.teacher).square()
        return (0.5 * (error / variance + variance.log())).mean()


class VID(Method):
    """The sum over all stages but the first.

    Args:
        predictors: One for each stage.
    """

    couples_samples = False

    def __init__(self, predictors: list[Predictor]) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(predictors)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over stages."""
        pairs = pair_maps(student.feature_maps, teacher.feature_maps, first=1)
        losses = [predictor(pair) for predictor, pair in zip(self.predictors, pairs, strict=True)]
        return sum(losses, start=student.logits.new_zeros(()))
