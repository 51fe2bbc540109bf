"""Mixing with the teacher's logits of another sample of the same class."""

import torch

from tekapctl.distillation.perturbations import (
    HALF_WIDTH,
    PERTURBATIONS,
    Deviations,
    Labels,
    LogitPerturbation,
    Noise,
    PerturbationContext,
    root_mean_square,
)
from tekapctl.models.knowledge import Knowledge


@PERTURBATIONS.register("mixing")
class Mixing(LogitPerturbation):
    """`d = (z_j - z_i) / r`, with `j` a random training image of sample `i`'s class, possibly `i` itself.

    The mean square of the difference of two draws is twice their variance, so that `r` is the root of twice the mean
    variance of the logits within classes. A class without images in the statistics is not perturbed.

    Raises:
        UsageError: The logits do not vary within classes.
    """

    takes_distribution = False

    def __init__(self, context: PerturbationContext) -> None:
        statistics, device = context.statistics(), context.device
        problem = "The teacher's logits do not vary over the training images of any one class."
        size = root_mean_square(2 * statistics.deviations_within_classes().square(), problem)
        counts = torch.bincount(statistics.labels, minlength=statistics.logits.shape[1])
        self.logits = statistics.logits[statistics.labels.argsort(stable=True)].float().to(device)
        self.counts = counts.to(device)
        self.first = (counts.cumsum(0) - counts).clamp(max=len(statistics.labels) - 1).to(device)
        self.scales = torch.where(counts > 0, 1 / size, 0.0).unsqueeze(1).to(device)

    def noise_dim(self, teacher: Knowledge) -> int:
        return 1

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        """The scaled differences; the noise chooses the other sample.

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
