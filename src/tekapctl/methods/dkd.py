"""DKD: KD's loss in two parts, for the target class and for the others, weighted apart.

Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equation 7.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.batches import Batch
from tekapctl.knowledge import Knowledge
from tekapctl.methods.method import METHODS, About, Method, MethodSpec, Pair, WarmUp, Weights
from tekapctl.section import Epochs, Temperature, Weight
from tekapctl.tekap import Level

_MASKED = 1000.0
"""Taken from the target's logit, so that its probability among the others is 0."""


@METHODS.register("dkd")
class DKDSpec(MethodSpec):
    """DKD's settings; beta 8 of the paper is `non_target_weight`, and the run's beta weighs the whole."""

    weights: ClassVar[Weights] = Weights(gamma=1.0, alpha=0.0, beta=1.0)
    level: ClassVar[Level] = "logit"
    about: ClassVar[About] = About(
        "Decoupled Knowledge Distillation",
        2022,
        "T^2 * [target_weight * KL(b_t || b_s) + non_target_weight * KL(n_t || n_s)], b = target against the rest, "
        "n = the rest among themselves",
        ("logits",),
    )
    name: Literal["dkd"] = "dkd"
    target_weight: Weight = Field(1.0, description="Weight of the target class's part.")
    non_target_weight: Weight = Field(8.0, description="Weight of the other classes' part.")
    temperature: Temperature = Field(4.0, description="T.")
    warm_up_epochs: Epochs = Field(20, description="Epochs over which the weight rises from 0.")

    def make(self, pair: Pair) -> "DKD":
        """DKD for any pair."""
        return DKD(self.target_weight, self.non_target_weight, self.temperature, pair.warm_up(self.warm_up_epochs))


class DKD(Method):
    """The decoupled loss.

    Args:
        target_weight: Weight of the target class's part.
        non_target_weight: Weight of the other classes' part.
        temperature: T.
        warm_up: How the weight rises.
    """

    couples_samples: ClassVar[bool] = False

    def __init__(self, target_weight: float, non_target_weight: float, temperature: float, warm_up: WarmUp) -> None:
        super().__init__()
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight
        self.temperature = temperature
        self.warm_up = warm_up

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, warmed up."""
        target, others = decoupled(student.logits, teacher.logits, batch.labels, self.temperature)
        return self.warm_up(batch.step) * (self.target_weight * target + self.non_target_weight * others)


def decoupled(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The parts of the target class and of the others, each times T^2."""
    is_target = F.one_hot(labels, student.shape[1])
    ours, theirs = student / temperature, teacher / temperature

    def target_against_rest(logits: Tensor) -> Tensor:
        log_probabilities = logits.log_softmax(1)
        target = log_probabilities.gather(1, labels.unsqueeze(1))
        rest = (log_probabilities - _MASKED * is_target).logsumexp(1, keepdim=True)
        return torch.cat([target, rest], dim=1)

    def divergence(log_ours: Tensor, log_theirs: Tensor) -> Tensor:
        return F.kl_div(log_ours, log_theirs, reduction="batchmean", log_target=True) * temperature**2

    of_target = divergence(target_against_rest(ours), target_against_rest(theirs))
    of_others = divergence(*((logits - _MASKED * is_target).log_softmax(1) for logits in (ours, theirs)))
    return of_target, of_others
