"""Temperature jitter: a sample's logits are all scaled by one random factor."""

from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distillation.perturbations.perturbation import (
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    root_mean_square,
)
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("temperature")
class Temperature(LogitPerturbation):
    """`d = n * (z - mean(z)) / r`, with a random number `n` per sample and the centred logits' root mean square `r`.

    Since a softmax ignores a shift of all logits, the augmented teacher is exactly the teacher at temperature
    `T / (teacher_scale + noise_weight * noise_std * n / r)`.

    Args:
        size: `r`.
    """

    def __init__(self, size: float) -> None:
        self.size = size

    @classmethod
    def build(cls, context: PerturbationContext) -> "Temperature":
        """With the `r` of the training images.

        Raises:
            UsageError: The teacher gives all classes the same logit.
        """
        logits = context.statistics().logits
        problem = "The teacher's logits are the same for all classes, so that no temperature changes them."
        return cls(root_mean_square((logits - logits.mean(1, keepdim=True)).square(), problem))

    def noise_dim(self, teacher: Knowledge) -> int:
        """One for each sample."""
        return 1

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch 1"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The noise times the centred logits."""
        logits = teacher.logits.float()
        return noise * ((logits - logits.mean(1, keepdim=True)) / self.size)
