"""What a method is built for: both networks' outputs, the training set, and weights that change over the run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from tekapctl.models.knowledge import Knowledge


@dataclass(frozen=True)
class Warmup:
    """A weight that rises from 1 / epochs in the first epoch to 1.

    Attributes:
        epochs: Epochs until it is 1; 0 starts with 1.
        steps: Steps per epoch.
        first: Epochs of an init stage, which are not counted.
    """

    epochs: int
    steps: int
    first: int = 0

    def __call__(self, step: int) -> float:
        """The weight at a step of the run, the steps of its init stage included."""
        epoch = max(1, step // self.steps + 1 - self.first)
        return min(1.0, epoch / self.epochs) if self.epochs else 1.0


@dataclass(frozen=True)
class CosineDecay:
    """A weight that falls from 1 to 0 in the last epoch, along half a cosine.

    Attributes:
        start: The last epoch, counted from 1, in which it is 1.
        epochs: Epochs of the run.
        steps: Steps per epoch.
        first: Epochs of an init stage, which are not counted.
    """

    start: int
    epochs: int
    steps: int
    first: int = 0

    def __call__(self, step: int) -> float:
        """The weight at a step of the run, the steps of its init stage included."""
        epoch = step // self.steps + 1 - self.first
        if epoch <= self.start or self.epochs <= self.start:
            return 1.0
        return (1 + math.cos(math.pi * (epoch - self.start) / (self.epochs - self.start))) / 2


ClassFeatures = Callable[[int], Float[Tensor, "classes images width"]]
"""Computes the teacher's embeddings of up to N training images per class, the same number for each."""


@dataclass(frozen=True)
class Pair:
    """The student, the teacher and the training set that a method is built for.

    Attributes:
        student: The student's knowledge of a small probe batch.
        teacher: The teacher's knowledge of the same batch.
        labels: The training set's labels; sample `i` has label `labels[i]`.
        seed: The run's seed.
        steps_per_epoch: Steps per epoch.
        standardize_logits: Whether losses of logits see logits of mean 0 and standard deviation 1.
        teacher_norms: The teacher's batch norms before the ReLUs of its stages (`Network.norms_before_relu`).
        epochs: Epochs of the run; 0 if unknown.
        init_epochs: Epochs of the init stage before them.
        classifier: The teacher's last layer, from embedding to logits.
        class_features: Computes the teacher's embeddings of up to N training images per class.
    """

    student: Knowledge
    teacher: Knowledge
    labels: Int[Tensor, " samples"]
    seed: int
    steps_per_epoch: int = 1
    standardize_logits: bool = False
    teacher_norms: tuple[nn.BatchNorm2d, ...] = ()
    epochs: int = 0
    init_epochs: int = 0
    classifier: nn.Module | None = None
    class_features: ClassFeatures | None = None

    def warmup(self, epochs: int) -> Warmup:
        """A weight that rises over the first epochs."""
        return Warmup(epochs, self.steps_per_epoch, self.init_epochs)

    def cosine_decay(self, start: float) -> CosineDecay:
        """A weight that falls after a fraction of the run's epochs."""
        return CosineDecay(round(start * self.epochs), self.epochs, self.steps_per_epoch, self.init_epochs)
