"""Dropout in the teacher's head: the classifier's logits of an embedding with dropped entries."""

import math

from torch import nn

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
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge


@PERTURBATIONS.register("dropout")
class Dropout(LogitPerturbation):
    """`d = W (k * e / (1 - p) - e) / r`, with `W` the classifier's weights and `e` the embedding.

    `k` is 0 with probability `p` and else 1, for each entry of the embedding. The mean of `d` over the masks is 0, and
    its mean square is `p / (1 - p) * sum over the entries of W^2 e^2 / r^2`, so that `r` needs no draws.
    Srivastava et al., "Dropout", JMLR 2014; dropout as samples of a network's output: Gal and Ghahramani, ICML 2016.

    Raises:
        UsageError: The teacher's last layer is not linear, or its embeddings are all 0.
    """

    takes_distribution = False

    def __init__(self, context: PerturbationContext) -> None:
        if not isinstance(context.classifier, nn.Linear):
            raise UsageError(
                f"Dropout in the teacher's head needs a linear classifier, and its last layer is a "
                f"{type(context.classifier).__name__}.",
                "Use another perturbation: `tekap.logit.perturbation=covariance`.",
            )
        weight, p = context.classifier.weight.detach(), context.dropout
        problem = "The teacher's embeddings, or the weights of its classifier, are all 0: dropout changes nothing."
        squares = weight.cpu().double().square() @ context.statistics().embedding_squares
        size = root_mean_square(squares, problem) * math.sqrt(p / (1 - p))
        self.rows = (weight.float() / size).T.to(context.device)
        self.gain = 1 / (1 - p)
        self.threshold = HALF_WIDTH * (2 * p - 1)

    def noise_dim(self, teacher: Knowledge) -> int:
        return teacher.embedding.shape[1]

    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        kept = (noise >= self.threshold).float()
        return kept.mul_(self.gain).sub_(1).mul_(teacher.embedding.float()) @ self.rows
