"""Perturbations that are noise times a matrix or times the teacher's logits."""

from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from tekapctl.distillation.perturbations import (
    PERTURBATIONS,
    Deviations,
    Labels,
    LogitPerturbation,
    Noise,
    PerturbationContext,
    TeacherStatistics,
    root_mean_square,
)
from tekapctl.models.knowledge import Knowledge


@PERTURBATIONS.register("covariance")
class Covariance(LogitPerturbation):
    """`d = S^(1/2) n`, with `S` the covariance of the teacher's logits, scaled to a mean variance of 1.

    The root is symmetric, and so does not depend on the signs of eigenvectors.

    Raises:
        UsageError: The logits do not vary.
    """

    no_variance = "The teacher's logits do not vary over the training images."

    def __init__(self, context: PerturbationContext) -> None:
        deviations = self.deviations(context.statistics())
        scaled = deviations / root_mean_square(deviations.square(), self.no_variance)
        variances, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        # Rounding may leave a variance of 0 slightly negative.
        root = (directions * variances.clamp(min=0).sqrt()) @ directions.T
        self.root = root.float().to(context.device)

    def deviations(self, statistics: TeacherStatistics) -> Float64[Tensor, "images classes"]:
        """The rows whose covariance `S` is."""
        return statistics.deviations()

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        return noise @ self.root


@PERTURBATIONS.register("isotropic")
class Isotropic(LogitPerturbation):
    """`d = n`, with `n` the noise itself: Hossain et al., ICLR 2025."""

    needs_statistics: ClassVar[bool] = False

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        return noise


@PERTURBATIONS.register("class-covariance")
class ClassCovariance(Covariance):
    """`d = S^(1/2) n`, with `S` the covariance of the logits about their classes' means, pooled over the classes."""

    no_variance = "The teacher's logits do not vary over the training images of any one class."

    def deviations(self, statistics: TeacherStatistics) -> Float64[Tensor, "images classes"]:
        return statistics.deviations_within_classes()


@PERTURBATIONS.register("relative")
class Relative(LogitPerturbation):
    """`d = n * z / r`, with a random number `n` for each logit, and `r` the logits' root mean square.

    With `teacher_scale` 1 the augmented teacher's logits are `(1 + noise_weight * noise_std / r * n) * z`: the noisy
    teacher of Sau and Balasubramanian, "Deep Model Compression: Distilling Knowledge from Noisy Teachers", 2016 (arXiv
    1610.09650), for all samples of a batch instead of a random subset.

    Raises:
        UsageError: All of the teacher's logits are 0.
    """

    def __init__(self, context: PerturbationContext) -> None:
        self.size = root_mean_square(context.statistics().logits.square(), "The teacher's logits are all 0.")

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        return noise * (teacher.logits.float() / self.size)


@PERTURBATIONS.register("temperature")
class Temperature(LogitPerturbation):
    """`d = n * (z - mean(z)) / r`, with a random number `n` per sample and the centred logits' root mean square `r`.

    Since a softmax ignores a shift of all logits, the augmented teacher is exactly the teacher at temperature
    `T / (teacher_scale + noise_weight * noise_std * n / r)`.

    Raises:
        UsageError: The teacher gives all classes the same logit.
    """

    def __init__(self, context: PerturbationContext) -> None:
        problem = "The teacher's logits are the same for all classes, so that no temperature changes them."
        self.size = root_mean_square(_centred(context.statistics().logits).square(), problem)

    def noise_dim(self, teacher: Knowledge) -> int:
        return 1

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        return noise * (_centred(teacher.logits.float()) / self.size)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)
