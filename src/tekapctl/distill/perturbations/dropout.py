"""Dropout in the teacher's head: what its classifier says when it misses some of the embedding."""

import math

from jaxtyping import Float, Int64
from torch import Tensor, nn

from tekapctl.distill.perturbations.perturbation import (
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

    `k` is 0 with probability `p` and else 1, for each entry of the embedding. The mean of `d` is 0, and its mean square
    over the masks is `p / (1 - p) * sum over the entries of W^2 e^2`, without a draw.
    Srivastava et al., "Dropout", JMLR 2014; as samples of what a network might say, Gal and Ghahramani, ICML 2016.

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
    def of(cls, basis: PerturbationContext) -> "Dropout":
        """With `r` over the training images and all masks.

        Raises:
            UsageError: The teacher's last layer is not linear, or its embeddings are 0.
        """
        if not isinstance(basis.classifier, nn.Linear):
            raise UsageError(
                f"Dropout in the teacher's head needs a linear classifier, and its last layer is a "
                f"{type(basis.classifier).__name__}.",
                "Use another perturbation: --set tekap.logit.perturbation=covariance.",
            )
        weight, p = basis.classifier.weight.detach(), basis.dropout
        problem = "The teacher's embeddings, or the weights of its classifier, are all 0: dropout changes nothing."
        squares = weight.cpu().double().square() @ basis.survey().embedding_squares
        size = root_mean_square(squares, problem) * math.sqrt(p / (1 - p))
        return cls((weight.float() / size).T.to(basis.device), p)

    def numbers(self, view: Knowledge) -> int:
        """One for each of the embedding's entries."""
        return view.embedding.shape[1]

    def sample(
        self, view: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch width"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """What the classifier says of the embedding's change."""
        kept = (noise >= self.threshold).float()
        return kept.mul_(self.gain).sub_(1).mul_(view.embedding.float()) @ self.rows
