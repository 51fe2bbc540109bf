"""What a distillation method is: its spec, its loss, and where both are found by name."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from tekapctl.data.batches import Batch
from tekapctl.knowledge import Knowledge
from tekapctl.registry import Registry
from tekapctl.section import Section
from tekapctl.tekap import AugmentedTeachers


@dataclass(frozen=True)
class Weights:
    """Default weights of the cross-entropy, of KD's logit loss and of the method's own loss."""

    gamma: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class Pair:
    """What a method may know of the student, the teacher and the training set when it is built.

    Attributes:
        student: The student's knowledge of a small probe batch.
        teacher: The teacher's knowledge of the same batch.
        labels: The training set's labels; sample `i` of the set has label `labels[i]`.
        seed: The run's seed.
    """

    student: Knowledge
    teacher: Knowledge
    labels: Int[Tensor, " samples"]
    seed: int


class Method(nn.Module, ABC):
    """A distillation loss with its own trainable parts and buffers."""

    needs_stages: ClassVar[bool] = False
    """Whether the loss reads feature maps; nothing is kept of them otherwise."""

    @abstractmethod
    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss under one teacher."""

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """The loss under the teacher plus the weighted losses under each augmented teacher."""
        total = self.loss(student, teacher, batch)
        for perspective in augmented:
            total = total + augmented.spec.loss_weight * self.loss(student, perspective, batch)
        return total


class MethodSpec(Section, ABC):
    """The settings of a method; each method has a subclass in its own file."""

    weights: ClassVar[Weights]

    name: str = Field(description="Name of the method.")

    @abstractmethod
    def build(self, pair: Pair) -> Method | None:
        """The method's own loss, weighted by beta; None for KD, which is the logit loss that alpha weighs."""


METHODS: Registry[type[MethodSpec]] = Registry("method", "tekapctl.methods")
