"""KD: the student learns the teacher's softened class probabilities.

Hinton, Vinyals and Dean, 2015, with the usual factor T^2.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import kl, kl_of_many
from tekapctl.distillation.methods.method import scaled
from tekapctl.distillation.tekap import AugmentedTeachers


@METHODS.register("kd")
class KDSpec(MethodSpec):
    """KD alone: alpha weights its loss, beta is 0, and the run's `temperature` is its T."""

    tekap = True
    weights = Weights(gamma=0.1, alpha=0.9, beta=0.0)
    requires = Requires(logits=True)
    about = About(
        "Distilling the Knowledge in a Neural Network",
        2015,
        "T^2 * KL(softmax(teacher / T) || softmax(student / T)), weighted by alpha",
    )
    has_loss = False
    name: Literal["kd"] = "kd"

    def make(self, pair: Pair) -> None:
        """None: the objective computes KD itself."""


class KD(Method):
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`, summed over classes, averaged over the batch.

    Args:
        temperature: T, above 0.
    """

    requires = Requires(logits=True)

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return kl(student.logits, teacher.logits, self.temperature)

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """TeKAP at the logit level: teacher_loss_weight * KL(teacher) + loss_weight * sum of KL(augmented)."""
        own, weight = augmented.spec.teacher_loss_weight, augmented.spec.loss_weight
        if augmented.logits is None:
            return scaled(self.loss(student, teacher, batch), own)
        logits = (student.logits, teacher.logits, augmented.logits)
        return kl_of_many(*logits, weight, self.temperature, teacher_loss_weight=own)
