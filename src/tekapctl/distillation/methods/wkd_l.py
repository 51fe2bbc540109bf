"""WKD-L: Wasserstein distance of probabilities, where moving mass between similar classes is cheap.

Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024,
section 3.1: discrete optimal transport with entropic regularisation over the classes that are not the target, and the
target's own term.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import (
    METHODS,
    About,
    Batch,
    CosineDecay,
    Knowledge,
    Method,
    MethodSpec,
    Pair,
    Requires,
)
from tekapctl.errors import UsageError
from tekapctl.settings import Temperature, Weight

_EPS = 1e-8
"""Added to the divisors in Sinkhorn's iterations, as in the authors' code."""


@METHODS.register("wkd-l")
class WKDLSpec(MethodSpec):
    """WKD-L's settings; the defaults are those published for resnet32x4 and resnet8x4."""

    requires = Requires(logits=True, class_features=True)
    about = About(
        "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
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
    decay_start: float = Field(
        0.625, ge=0, le=1, description="Fraction of the epochs after which the weight falls to 0 by a cosine (150/240)."
    )

    def make(self, pair: Pair) -> "WKDL":
        """WKD-L for a teacher and a training set."""
        if pair.student.logits.shape[1] < 2:
            raise UsageError("WKD-L compares classes, and the training set has one.", "Use another method.")
        assert pair.class_features is not None, "WKD-L reads the teacher's embeddings"
        costs = transport_costs(class_distances(pair.class_features(self.class_images)), self.sharpen)
        return WKDL(self, costs, pair.cosine_decay(self.decay_start))


class WKDL(Method):
    """The target's term and the transport between the other classes.

    Args:
        spec: The settings.
        costs: Cost of moving probability from class to class.
        decay: Weight of the distance over the run.
    """

    couples_samples = False
    costs: Tensor

    def __init__(self, spec: WKDLSpec, costs: Float[Tensor, "classes classes"], decay: CosineDecay) -> None:
        super().__init__()
        self.spec = spec
        self.decay = decay
        self.register_buffer("costs", costs.float())

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Both terms, the distance weighted."""
        target, distance = self.parts(student.logits, teacher.logits, batch.labels)
        return target + self.decay(batch.step) * self.spec.distance_weight * distance

    def parts(
        self,
        student: Float[Tensor, "batch classes"],
        teacher: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The target's term and the distance, averaged over the batch."""
        target = labels.unsqueeze(1)
        of_target = -(teacher.softmax(1).gather(1, target) * student.log_softmax(1).gather(1, target)).mean()
        others = torch.ones_like(student).scatter(1, target, 0.0)
        ours, theirs = (
            (logits / self.spec.temperature).masked_fill(others == 0, -torch.inf).softmax(1)
            for logits in (student, teacher)
        )
        start = others / (student.shape[1] - 1)
        costs = transported(ours, theirs, self.costs, start, self.spec.entropy_weight, self.spec.iterations)
        return of_target, costs.mean()


def transported(
    ours: Float[Tensor, "batch classes"],
    theirs: Float[Tensor, "batch classes"],
    costs: Float[Tensor, "classes classes"],
    start: Float[Tensor, "batch classes"],
    entropy_weight: float,
    iterations: int,
) -> Float[Tensor, " batch"]:
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
        other = theirs / (scale @ kernel.T + _EPS)
        scale = ours / (other @ kernel + _EPS)
    return ((other @ (kernel * costs)) * scale).sum(1)


def transport_costs(distances: Float[Tensor, "classes classes"], sharpen: float) -> Float[Tensor, "classes classes"]:
    """Costs between 0 and 1: `1 - exp(-sharpen * distance)`."""
    return 1 - (-sharpen * distances).exp()


def class_distances(features: Float[Tensor, "classes images width"]) -> Float[Tensor, "classes classes"]:
    """1 minus the linear CKA of each two classes' features, image by image in the order given.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, equation 5.
    """
    centred = features - features.mean(1, keepdim=True)
    grams = (centred @ centred.mT).flatten(1)
    unit = grams / grams.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (1 - unit @ unit.T).clamp(0, 1).fill_diagonal_(0)
