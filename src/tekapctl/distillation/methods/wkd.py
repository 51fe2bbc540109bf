"""WKD: Wasserstein distances of features (WKD-F) and of probabilities (WKD-L).

Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024.
WKD-F (section 3.2) is the distance of two Gaussians with diagonal covariances, with a weight for each of its parts.
WKD-L (section 3.1) is discrete optimal transport with entropic regularisation over the classes that are not the target,
where moving mass between similar classes is cheap, and the target's own term.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Connector, Map, MapPair
from tekapctl.distillation.methods.losses import Labels, Logits, OfEach
from tekapctl.distillation.methods.method import TwoSidedMethod
from tekapctl.errors import UsageError
from tekapctl.settings import Temperature, Weight

OfCells = Float[Tensor, "cells batch _c"]
Gaussians = tuple[OfCells, OfCells]
"""Means and standard deviations."""
PAPER = "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation"
DecayStart = Annotated[
    float,
    Field(ge=0, le=1, description="Fraction of the epochs after which the weight falls to 0 by a cosine (150/240)."),
]
_VARIANCE_EPS = 1e-5
"""Added to a variance before its square root."""
_SINKHORN_EPS = 1e-8
"""Added to the divisors in Sinkhorn's iterations, as in the authors' code."""


@METHODS.register("wkd-f")
class WKDFSpec(MethodSpec):
    """WKD-F's settings; the defaults are those published for resnet32x4 and resnet8x4."""

    weights = Weights(beta=0.08)
    requires = Requires(feature_maps=True)
    about = About(
        PAPER,
        2024,
        "mean over samples and cells of [mean_weight * |m_t - m_s|^2 + |d_t - d_s|^2], m and d = means and deviations "
        "of each channel of the last map",
        "published for ShuffleV1 under wrn_40_2: beta 0.3, mean_weight 3, grid 4",
    )
    name: Literal["wkd-f"] = "wkd-f"
    mean_weight: Weight = Field(4.0, description="Weight of the distance of the means; the deviations have weight 1.")
    grid: int = Field(1, ge=1, le=64, description="Cells per side of the map, each with its mean and deviation.")
    decay_start: DecayStart = 0.625

    def make(self, pair: Pair) -> "WKDF":
        return WKDF(self, pair)


class WKDF(TwoSidedMethod):
    """The distance of the Gaussians of both last maps, the student's through a connector."""

    couples_samples = False

    def __init__(self, spec: WKDFSpec, pair: Pair) -> None:
        super().__init__(spec)
        self.decay = pair.cosine_decay(spec.decay_start)
        self.connector = Connector(MapPair(pair.student.feature_maps[-1], pair.teacher.feature_maps[-1]), relu=True)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Gaussians:
        """The student's Gaussians, of its connected map."""
        return gaussians(self.connector(student.feature_maps[-1]), self.spec.grid)

    def compare(self, ours: Gaussians, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        means, deviations = distances(ours, gaussians(teacher.feature_maps[-1], self.spec.grid))
        return self.decay(batch.step) * (self.spec.mean_weight * means + deviations)


def gaussians(maps: Map, grid: int) -> Gaussians:
    """The mean and the deviation of each channel in each cell."""
    found = cells(maps, grid)
    means, deviations = ([of(pixels) for pixels in found] for of in (lambda pixels: pixels.mean(-1), deviation))
    return torch.stack(means), torch.stack(deviations)


def distances(student: Gaussians, teacher: Gaussians) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared distances of means and of deviations, summed over channels, averaged over samples and cells."""
    means, deviations = ((one - other).square().sum(2).mean() for one, other in zip(student, teacher, strict=True))
    return means, deviations


def cells(maps: Map, grid: int) -> list[Float[Tensor, "batch _c _pixels"]]:
    """The pixels of each cell of a grid. As in adaptive pooling, cells overlap if the grid does not divide the side.

    A side with fewer pixels than cells has one cell per pixel.
    """
    rows, columns = (
        [slice(n * side // count, -(-(n + 1) * side // count)) for n in range(count)]
        for side, count in ((side, min(grid, side)) for side in maps.shape[2:])
    )
    return [maps[:, :, row, column].flatten(2) for row in rows for column in columns]


def deviation(pixels: Float[Tensor, "batch _c _pixels"]) -> Float[Tensor, "batch _c"]:
    """The standard deviation in a cell, from the unbiased variance; a single pixel has variance 0."""
    return (pixels.var(-1, correction=int(pixels.shape[-1] > 1)) + _VARIANCE_EPS).sqrt()


@METHODS.register("wkd-l")
class WKDLSpec(MethodSpec):
    """WKD-L's settings; the defaults are those published for resnet32x4 and resnet8x4."""

    requires = Requires(logits=True, class_features=True)
    about = About(
        PAPER,
        2024,
        "-p_t log p_s of the target + distance_weight * cost of moving the other classes' softened probabilities, "
        "cost = 1 - exp(-sharpen * (1 - CKA of the classes' features))",
        "published for ShuffleV1 under wrn_40_2: distance_weight 200, temperature 6",
    )
    name: Literal["wkd-l"] = "wkd-l"
    distance_weight: Weight = Field(600.0, description="Weight of the distance; the target's term has weight 1.")
    temperature: Temperature = Field(8.0, description="Temperature of the distance; that of the target is 1.")
    entropy_weight: float = Field(
        0.05, ge=0.02, le=1e3, description="Weight of the transport plan's entropy (Sinkhorn)."
    )
    iterations: int = Field(10, ge=1, le=1000, description="Number of Sinkhorn iterations.")
    sharpen: float = Field(1.0, gt=0, le=100, description="Steepness of costs over the distance of classes.")
    class_images: int = Field(
        100, ge=2, le=10_000, description="Maximum number of training images per class for the class distances."
    )
    decay_start: DecayStart = 0.625

    def make(self, pair: Pair) -> "WKDL":
        return WKDL(self, pair)


class WKDL(Method):
    """The target's term and the transport between the other classes.

    Raises:
        UsageError: The training set has a single class.
    """

    couples_samples = False
    costs: Tensor

    def __init__(self, spec: WKDLSpec, pair: Pair) -> None:
        super().__init__(spec)
        if pair.student.logits.shape[1] < 2:
            raise UsageError("WKD-L compares classes, and the training set has one.", "Use another method.")
        assert pair.class_features is not None, "WKD-L reads the teacher's embeddings"
        self.decay = pair.cosine_decay(spec.decay_start)
        of_classes = class_distances(pair.class_features(spec.class_images))
        self.register_buffer("costs", (1 - (-spec.sharpen * of_classes).exp()).float())

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        target, distance = self.parts(student.logits, teacher.logits, batch.labels)
        return target + self.decay(batch.step) * self.spec.distance_weight * distance

    def parts(self, student: Logits, teacher: Logits, labels: Labels) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The target's term and the distance, averaged over the batch."""
        target = labels.unsqueeze(1)
        of_target = -(teacher.softmax(1).gather(1, target) * student.log_softmax(1).gather(1, target)).mean()
        others = torch.ones_like(student).scatter(1, target, 0.0)
        softened = (logits / self.spec.temperature for logits in (student, teacher))
        ours, theirs = (logits.masked_fill(others == 0, -torch.inf).softmax(1) for logits in softened)
        start = others / (student.shape[1] - 1)
        costs = transported(ours, theirs, self.costs, start, self.spec.entropy_weight, self.spec.iterations)
        return of_target, costs.mean()


def transported(
    ours: Logits,
    theirs: Logits,
    costs: Float[Tensor, "classes classes"],
    start: Logits,
    entropy_weight: float,
    iterations: int,
) -> OfEach:
    """The cost of moving one side's probabilities to the other's, by Sinkhorn's iterations.

    All samples share one cost matrix; a sample's excluded class has no mass and a start of 0.

    Args:
        ours: The student's probabilities, which the plan meets exactly.
        theirs: The teacher's.
        costs: Cost of moving mass from class to class.
        start: The student's scales before the first iteration.
        entropy_weight: Weight of the plan's entropy.
        iterations: Number of iterations.
    """
    kernel = (-costs / entropy_weight).exp()
    scale = start
    for _ in range(iterations):
        other = theirs / (scale @ kernel.T + _SINKHORN_EPS)
        scale = ours / (other @ kernel + _SINKHORN_EPS)
    return ((other @ (kernel * costs)) * scale).sum(1)


def class_distances(features: Float[Tensor, "classes images width"]) -> Float[Tensor, "classes classes"]:
    """1 minus the linear CKA of each two classes' features, image by image in the order given.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, equation 5.
    """
    centred = features - features.mean(1, keepdim=True)
    grams = (centred @ centred.mT).flatten(1)
    unit = grams / grams.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (1 - unit @ unit.T).clamp(0, 1).fill_diagonal_(0)
