"""KD: the student learns the teacher's softened class probabilities.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, with the usual factor T^2.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
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
        """Hinton's loss."""
        return kl(student.logits, teacher.logits, self.temperature)

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """TeKAP at the logit level: teacher_loss_weight * KL(teacher) + loss_weight * sum of KL(augmented)."""
        spec = augmented.spec
        if augmented.logits is None:
            return scaled(self.loss(student, teacher, batch), spec.teacher_loss_weight)
        return kl_of_many(
            student.logits,
            teacher.logits,
            augmented.logits,
            spec.loss_weight,
            self.temperature,
            teacher_loss_weight=spec.teacher_loss_weight,
        )


def kl(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || student)` of two batches of logits at temperature T."""
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def kl_of_many(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    augmented: Float[Tensor, "teachers batch classes"],
    weight: float,
    temperature: float,
    *,
    teacher_loss_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """`T^2 * [teacher_loss_weight * KL(teacher || student) + weight * sum of KL(augmented || student)]`.

    KL is linear in its target up to the target's entropy, which has no gradient. So the targets are summed before they
    are compared with the student, and the student's side costs the same for any number of teachers.
    """
    with torch.no_grad():
        targets = torch.cat([teacher.float().unsqueeze(0), augmented]) / temperature
        log_targets = F.log_softmax(targets, dim=2)
        probabilities = log_targets.exp()
        weights = torch.full((targets.shape[0], 1, 1), weight, device=targets.device)
        weights[0].fill_(teacher_loss_weight)  # an assignment would copy a number to the device
        weighted = weights * probabilities
        pooled = weighted.sum(0)
        negative_entropy = (weighted * log_targets).sum()
    cross_entropy = (pooled * F.log_softmax(student.float() / temperature, dim=1)).sum()
    return (negative_entropy - cross_entropy) * (temperature**2 / student.shape[0])


def standardized(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Logits of mean 0 and standard deviation 1 over the classes.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, algorithm 1.
    """
    logits = logits.float()
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)
