"""Noise in the directions in which the teacher's logits vary among images of one class."""

from jaxtyping import Float64
from torch import Tensor

from tekapctl.perturbations.covariance import Covariance
from tekapctl.perturbations.perturbation import PERTURBATIONS, Survey


@PERTURBATIONS.register("class-covariance")
class ClassCovariance(Covariance):
    """`d = S^(1/2) n`, with `S` the covariance of the logits about their classes' means, pooled over the classes."""

    unvaried = "The teacher's logits do not vary over the training images of any one class."

    @staticmethod
    def deviations(survey: Survey) -> Float64[Tensor, "images classes"]:
        """What the covariance is that of."""
        return survey.deviations_within_classes()
