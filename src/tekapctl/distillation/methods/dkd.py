"""DKD: KD's loss in two parts with a weight each, for the target class and for the others.

Zhao et al., CVPR 2022, equation 7.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.losses import (
    Bound,
    Labels,
    Logits,
    OfEach,
    against_rest,
    entropy_weights,
    kl_of_each,
)
from tekapctl.settings import Epochs, Temperature, Weight

_MASKED = 1000.0
"""Subtracted from the target's logit, so that its probability among the others is 0."""


@METHODS.register("dkd")
class DKDSpec(MethodSpec):
    """DKD's settings; the paper's alpha and beta are the two weights, and the run's beta weights the sum."""

    requires = Requires(logits=True)
    about = About(
        "Decoupled Knowledge Distillation",
        2022,
        "T^2 * [target_weight * KL(b_t || b_s) + non_target_weight * KL(n_t || n_s)], b = target against the rest, "
        "n = the rest among themselves",
    )
    name: Literal["dkd"] = "dkd"
    target_weight: Weight = Field(1.0, description="Weight of the target class (the paper's alpha).")
    non_target_weight: Weight = Field(8.0, description="Weight of the other classes (the paper's beta).")
    temperature: Temperature = Field(4.0, description="Temperature of the softmax.")
    warmup_epochs: Epochs = Field(20, description="Epochs until the weight reaches 1.")
    entropy_weights: bool = Field(False, description="Weight samples by entropy, as in EA-KD (temperature 3).")
    entropy_bound: Bound = Field(100.0, description="Divisor of the student's entropy in EA-KD's weights.")

    def make(self, pair: Pair) -> "DKD":
        return DKD(self, pair)


class DKD(Method):
    """The decoupled loss, times a weight that rises."""

    couples_samples = False

    def __init__(self, spec: DKDSpec, pair: Pair) -> None:
        super().__init__(spec)
        self.warmup = pair.warmup(spec.warmup_epochs)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        target, others = decoupled(student.logits, teacher.logits, batch.labels, self.spec.temperature)
        of_each = self.spec.target_weight * target + self.spec.non_target_weight * others
        if self.spec.entropy_weights:
            of_each = entropy_weights(student.logits, teacher.logits, bound=self.spec.entropy_bound) * of_each
        return self.warmup(batch.step) * of_each.mean()


def decoupled(student: Logits, teacher: Logits, labels: Labels, temperature: float) -> tuple[OfEach, OfEach]:
    """The losses of the target class and of the others, each times T^2, for each sample."""
    is_target = F.one_hot(labels, student.shape[1])
    softened = student / temperature, teacher / temperature
    of_target = kl_of_each(*(against_rest(logits, labels) for logits in softened))
    of_others = kl_of_each(*((logits - _MASKED * is_target).log_softmax(1) for logits in softened))
    return temperature**2 * of_target, temperature**2 * of_others
