"""Noise in the directions in which the teacher's logits vary."""

from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tekapctl.distillation.perturbations.perturbation import (
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    TeacherStatistics,
    root_mean_square,
)
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("covariance")
class Covariance(LogitPerturbation):
    """`d = S^(1/2) n`, with `S` the covariance of the teacher's logits, scaled to a mean variance of 1.

    Args:
        root: The symmetric root of `S`; unlike other roots it does not depend on the signs of eigenvectors.
    """

    no_variance = "The teacher's logits do not vary over the training images."

    def __init__(self, root: Float[Tensor, "classes classes"]) -> None:
        self.root = root

    @classmethod
    def build(cls, context: PerturbationContext) -> "Covariance":
        """With the covariance over the training images.

        Raises:
            UsageError: The logits do not vary.
        """
        deviations = cls.deviations(context.statistics())
        scaled = deviations / root_mean_square(deviations.square(), cls.no_variance)
        variances, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        # Rounding may leave a variance of 0 slightly negative.
        root = (directions * variances.clamp(min=0).sqrt()) @ directions.T
        return cls(root.float().to(context.device))

    @staticmethod
    def deviations(statistics: TeacherStatistics) -> Float64[Tensor, "images classes"]:
        """The rows whose covariance `S` is."""
        return statistics.deviations()

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch classes"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The noise times the root."""
        return noise @ self.root


@PERTURBATIONS.register("isotropic")
class Isotropic(LogitPerturbation):
    """`d = n`, with `n` the noise itself: Hossain et al., ICLR 2025."""

    needs_statistics: ClassVar[bool] = False

    @classmethod
    def build(cls, context: PerturbationContext) -> "Isotropic":
        """The same for every teacher."""
        return cls()

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch classes"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The noise as it is."""
        return noise


@PERTURBATIONS.register("class-covariance")
class ClassCovariance(Covariance):
    """`d = S^(1/2) n`, with `S` the covariance of the logits about their classes' means, pooled over the classes."""

    no_variance = "The teacher's logits do not vary over the training images of any one class."

    @staticmethod
    def deviations(statistics: TeacherStatistics) -> Float64[Tensor, "images classes"]:
        """The rows whose covariance `S` is."""
        return statistics.deviations_within_classes()
