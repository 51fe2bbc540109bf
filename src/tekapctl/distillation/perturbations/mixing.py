"""Mixing with the teacher's logits of another sample of the same class."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distillation.perturbations.perturbation import (
    HALF_WIDTH,
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    TeacherStatistics,
    root_mean_square,
)
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("mixing")
class Mixing(LogitPerturbation):
    """`d = (z_j - z_i) / r`, with `j` a random training image of sample `i`'s class, possibly `i` itself.

    The mean square of the difference of two draws is twice their variance, so that `r` is the root of twice the mean
    variance of the logits within classes. A class without images in the statistics is not perturbed.

    Args:
        statistics: The teacher's logits of training images.
        classes: Number of classes.
        device: The run's device.

    Raises:
        UsageError: The logits do not vary within classes.
    """

    takes_distribution = False

    def __init__(self, statistics: TeacherStatistics, classes: int, device: torch.device) -> None:
        problem = "The teacher's logits do not vary over the training images of any one class."
        size = root_mean_square(2 * statistics.deviations_within_classes().square(), problem)
        counts = torch.bincount(statistics.labels, minlength=classes)
        self.logits = statistics.logits[statistics.labels.argsort(stable=True)].float().to(device)
        self.counts = counts.to(device)
        self.first = (counts.cumsum(0) - counts).clamp(max=len(statistics.labels) - 1).to(device)
        self.scales = torch.where(counts > 0, 1 / size, 0.0).unsqueeze(1).to(device)

    @classmethod
    def build(cls, context: PerturbationContext) -> "Mixing":
        """With the training images' logits."""
        statistics = context.statistics()
        return cls(statistics, statistics.logits.shape[1], context.device)

    def noise_dim(self, teacher: Knowledge) -> int:
        """One, which chooses the other sample."""
        return 1

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch 1"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The scaled difference from the other samples' logits.

        Raises:
            ValueError: There are no labels.
        """
        if labels is None:
            raise ValueError("mixing needs the samples' labels")
        counts = self.counts[labels]
        place = ((noise.squeeze(2) / (2 * HALF_WIDTH) + 0.5) * counts).long()
        # Rounding may move the largest number of a uniform draw to its bound.
        other = self.first[labels] + torch.minimum(place, counts - 1).clamp(min=0)
        return (self.logits[other] - teacher.logits.float()) * self.scales[labels]
