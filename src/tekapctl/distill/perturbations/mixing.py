"""Mixing with what the teacher says of another sample of the same class."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distill.perturbations.perturbation import (
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
    """`d = (z_j - z_i) / r`, with `j` any of the surveyed training images of sample `i`'s class, `i` itself among them.

    The mean square of the difference of two draws is twice their variance, so that `r` is the root of twice the
    logits' mean variance within classes. A class without surveyed images is left as it is.

    Args:
        survey: The teacher's logits by class.
        classes: How many classes there are.
        device: Where the run computes.

    Raises:
        UsageError: The logits do not vary within classes.
    """

    takes_distribution = False

    def __init__(self, survey: TeacherStatistics, classes: int, device: torch.device) -> None:
        problem = "The teacher's logits do not vary over the training images of any one class."
        size = root_mean_square(2 * survey.deviations_within_classes().square(), problem)
        counts = torch.bincount(survey.labels, minlength=classes)
        self.logits = survey.logits[survey.labels.argsort(stable=True)].float().to(device)
        self.counts = counts.to(device)
        self.first = (counts.cumsum(0) - counts).clamp(max=len(survey.labels) - 1).to(device)
        self.scales = torch.where(counts > 0, 1 / size, 0.0).unsqueeze(1).to(device)

    @classmethod
    def of(cls, basis: PerturbationContext) -> "Mixing":
        """With the training images' logits."""
        survey = basis.survey()
        return cls(survey, survey.logits.shape[1], basis.device)

    def numbers(self, view: Knowledge) -> int:
        """One, which says the other sample."""
        return 1

    def sample(
        self, view: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch 1"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The way to the other sample's logits.

        Raises:
            ValueError: There are no labels.
        """
        if labels is None:
            raise ValueError("mixing needs the samples' labels")
        counts = self.counts[labels]
        place = ((noise.squeeze(2) / (2 * HALF_WIDTH) + 0.5) * counts).long()
        # The last number of a uniform draw may be rounded to its end.
        other = self.first[labels] + torch.minimum(place, counts - 1).clamp(min=0)
        return (self.logits[other] - view.logits.float()) * self.scales[labels]
