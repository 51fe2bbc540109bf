"""What a learner is trained towards: the parts of its loss, each with its weight."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batches import Batch
from tekapctl.engine.clock import Clock, no_clock
from tekapctl.knowledge import Knowledge
from tekapctl.methods import Method
from tekapctl.methods.kd import KD
from tekapctl.tekap import Tekap

Parts = dict[str, Float[Tensor, ""]]
"""Weighted parts of a loss by name; the loss is their sum."""
Teacher = Callable[[Batch], Knowledge]
"""Gives the frozen teacher's knowledge of a batch, without gradients."""


class Objective(nn.Module, ABC):
    """The loss of a learner, with whatever trainable parts and buffers it has of its own."""

    needs_stages: bool = False
    clock: Clock = staticmethod(no_clock)

    @abstractmethod
    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The weighted parts of the loss for a batch."""


class Classification(Objective):
    """Cross-entropy with the labels."""

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy alone."""
        return {"cross_entropy": F.cross_entropy(learner.logits.float(), batch.labels)}


class Distillation(Objective):
    """`gamma * cross-entropy + alpha * KD + beta * method`, each under the teacher and its augmented teachers.

    Args:
        teacher: Gives the teacher's knowledge of a batch.
        tekap: Makes the augmented teachers.
        method: The method's own loss, or None where KD is all.
        gamma: Weight of the cross-entropy.
        alpha: Weight of KD.
        beta: Weight of the method's own loss.
        temperature: Temperature of KD.
    """

    def __init__(
        self,
        teacher: Teacher,
        tekap: Tekap,
        method: Method | None,
        *,
        gamma: float,
        alpha: float,
        beta: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.tekap = tekap
        self.kd = KD(temperature)
        self.method = method
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.needs_stages = method is not None and method.needs_stages

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The parts whose weight is above 0."""
        parts: Parts = {}
        if self.gamma:
            parts["cross_entropy"] = self.gamma * F.cross_entropy(learner.logits.float(), batch.labels)
        if not (self.alpha or (self.beta and self.method is not None)):
            return parts
        with self.clock("teacher"), torch.no_grad():
            teacher = self.teacher(batch)
        if self.alpha:
            with self.clock("TeKAP"):
                augmented = self.tekap.augment_logits(teacher, batch.step)
            with self.clock("method"):
                parts["kd"] = self.alpha * self.kd.augmented_loss(learner, teacher, augmented, batch)
        if self.beta and self.method is not None:
            with self.clock("TeKAP"):
                augmented = self.tekap.augment_features(teacher, batch.step)
            with self.clock("method"):
                parts["method"] = self.beta * self.method.augmented_loss(learner, teacher, augmented, batch)
        return parts
