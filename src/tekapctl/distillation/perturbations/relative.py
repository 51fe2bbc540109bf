"""Relative noise: each logit times a random factor, as in noisy teachers.

Sau and Balasubramanian, "Deep Model Compression: Distilling Knowledge from Noisy Teachers", 2016 (arXiv 1610.09650).
"""

from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.distillation.perturbations.perturbation import (
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    root_mean_square,
)
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("relative")
class Relative(LogitPerturbation):
    """`d = n * z / r`, with a random number `n` for each logit, and `r` the logits' root mean square.

    With `teacher_scale` 1 the augmented teacher's logits are `(1 + noise_weight * noise_std / r * n) * z`: the
    noisy teacher of Sau and Balasubramanian, for all samples of a batch instead of a random subset.

    Args:
        size: `r`.
    """

    def __init__(self, size: float) -> None:
        self.size = size

    @classmethod
    def build(cls, context: PerturbationContext) -> "Relative":
        """With the `r` of the training images.

        Raises:
            UsageError: All of the teacher's logits are 0.
        """
        return cls(root_mean_square(context.statistics().logits.square(), "The teacher's logits are all 0."))

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch classes"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The noise times the logits."""
        return noise * (teacher.logits.float() / self.size)
