"""VID: maximize the information that the student's maps hold about the teacher's.

Ahn et al., CVPR 2019, equation 5: a Gaussian with a learned variance for each of the teacher's channels.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing

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
    variance: float = Field(5.0, gt=EPSILON, le=1e6, description="Initial variance of each channel.")

    def make(self, pair: Pair) -> "VID":
        return VID(self, pair)


class Prediction(NamedTuple):
    """A Gaussian for each channel."""

    mean: Map
    variance: Float[Tensor, "1 _c 1 1"]

    def loss(self, teacher: Map) -> Float[Tensor, ""]:
        """The negative log-likelihood of the teacher's map, up to a constant."""
        error = (self.mean - teacher).square()
        return (0.5 * (error / self.variance + self.variance.log())).mean()


class Predictor(nn.Module):
    """Predicts the teacher's map of one stage from the student's, as a Gaussian for each channel.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's.
        variance: Initial variance of each channel.
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

    def forward(self, student: Map) -> Prediction:
        """The Gaussian."""
        variance = (F.softplus(self.log_scale) + EPSILON).view(1, -1, 1, 1)
        return Prediction(self.regressor(student), variance)


class VID(FeatureMapMethod):
    """The losses of the predictors of all stages but the first."""

    pairing = Pairing(first=1)

    def __init__(self, spec: VIDSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        pairs = self.pairs(pair.student, pair.teacher)
        self.predictors = nn.ModuleList(
            Predictor(ours.shape[1], theirs.shape[1], spec.variance) for ours, theirs in pairs
        )

    def connect(self, number: int, student: Map) -> Prediction:
        found: Prediction = self.predictors[number](student)
        return found

    def pair_loss(self, number: int, ours: Prediction, teacher: Map, batch: Batch) -> Float[Tensor, ""]:
        return ours.loss(teacher)
