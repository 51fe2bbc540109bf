"""Dropout in the teacher's head: the classifier's logits of an embedding with dropped entries."""

import math

from jaxtyping import Float, Int64
from torch import Tensor, nn

from tekapctl.distillation.perturbations.perturbation import (
    HALF_WIDTH,
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    root_mean_square,
)
from tekapctl.errors import UsageError
from tekapctl.models.network import Knowledge


@PERTURBATIONS.register("dropout")
class Dropout(LogitPerturbation):
    """`d = W (k * e / (1 - p) - e) / r`, with `W` the classifier's weights and `e` the embedding.

    `k` is 0 with probability `p` and else 1, for each entry of the embedding. The mean of `d` over the masks is 0, and
    its mean square is `p / (1 - p) * sum over the entries of W^2 e^2 / r^2`, so that `r` needs no draws.
    Srivastava et al., "Dropout", JMLR 2014; dropout as samples of a network's output: Gal and Ghahramani, ICML 2016.

    Args:
        rows: `W / r`, transposed.
        probability: `p`.
    """

    takes_distribution = False

    def __init__(self, rows: Float[Tensor, "width classes"], probability: float) -> None:
        self.rows = rows
        self.gain = 1 / (1 - probability)
        self.threshold = HALF_WIDTH * (2 * probability - 1)

    @classmethod
    def build(cls, context: PerturbationContext) -> "Dropout":
        """With the `r` of the training images and all masks.

        Raises:
            UsageError: The teacher's last layer is not linear, or its embeddings are all 0.
        """
        if not isinstance(context.classifier, nn.Linear):
            raise UsageError(
                f"Dropout in the teacher's head needs a linear classifier, and its last layer is a "
                f"{type(context.classifier).__name__}.",
                "Use another perturbation: --set tekap.logit.perturbation=covariance.",
            )
        weight, p = context.classifier.weight.detach(), context.dropout
        problem = "The teacher's embeddings, or the weights of its classifier, are all 0: dropout changes nothing."
        squares = weight.cpu().double().square() @ context.statistics().embedding_squares
        size = root_mean_square(squares, problem) * math.sqrt(p / (1 - p))
        return cls((weight.float() / size).T.to(context.device), p)

    def noise_dim(self, teacher: Knowledge) -> int:
        """One for each entry of the embedding."""
        return teacher.embedding.shape[1]

    def sample(
        self, teacher: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch width"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The logits of the change of the embedding."""
        kept = (noise >= self.threshold).float()
        return kept.mul_(self.gain).sub_(1).mul_(teacher.embedding.float()) @ self.rows
