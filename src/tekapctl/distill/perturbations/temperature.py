"""Temperature jitter: all of a sample's logits stretched or shrunk by one random factor."""

from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distill.perturbations.perturbation import (
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    root_mean_square,
)
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("temperature")
class Temperature(LogitPerturbation):
    """`d = n * (z - mean(z)) / r`, with one random number `n` a sample, and `r` the centred logits' root mean square.

    A softmax does not see a shift. To it the augmented teacher is the teacher at the temperature
    `T / (teacher_scale + noise_weight * noise_std * n / r)`, exactly and not to first order only.

    Args:
        size: `r`.
    """

    def __init__(self, size: float) -> None:
        self.size = size

    @classmethod
    def of(cls, basis: PerturbationContext) -> "Temperature":
        """With `r` over the training images.

        Raises:
            UsageError: The teacher gives all classes the same logit.
        """
        logits = basis.survey().logits
        problem = "The teacher's logits are the same for all classes, so that no temperature changes them."
        return cls(root_mean_square((logits - logits.mean(1, keepdim=True)).square(), problem))

    def numbers(self, view: Knowledge) -> int:
        """One."""
        return 1

    def sample(
        self, view: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch 1"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The centred logits, times the noise."""
        logits = view.logits.float()
        return noise * ((logits - logits.mean(1, keepdim=True)) / self.size)
