"""Perturbations of the teacher's logits: the base class, and files with perturbations, which are found by name."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.registry import Registry

HALF_WIDTH = math.sqrt(3)
"""Uniform numbers from -sqrt(3) to sqrt(3) have variance 1."""
Labels = Int64[Tensor, " batch"] | None
"""The samples' class numbers."""
Noise = Float[Tensor, "teachers batch dim"]
"""Random numbers of variance 1."""
Deviations = Float[Tensor, "teachers batch classes"]
"""A perturbation's samples `d`."""


@dataclass(frozen=True)
class TeacherStatistics:
    """The teacher's outputs for training images without augmentation, on the CPU.

    Attributes:
        logits: The logits.
        labels: The images' class numbers.
        embedding_squares: The mean square of each entry of the embedding.
    """

    logits: Float64[Tensor, "images classes"]
    labels: Int64[Tensor, " images"]
    embedding_squares: Float64[Tensor, " width"]

    def deviations(self) -> Float64[Tensor, "images classes"]:
        """The logits' deviations from their means over all images."""
        return self.logits - self.logits.mean(0)

    def deviations_within_classes(self) -> Float64[Tensor, "images classes"]:
        """The logits' deviations from their means over the images of the same class."""
        count = int(self.labels.max()) + 1
        sizes = torch.bincount(self.labels, minlength=count).clamp(min=1)
        sums = self.logits.new_zeros(count, self.logits.shape[1]).index_add_(0, self.labels, self.logits)
        return self.logits - (sums / sizes.unsqueeze(1))[self.labels]


@dataclass(frozen=True)
class PerturbationContext:
    """What a perturbation is built from.

    Attributes:
        classifier: The teacher's layer from embedding to logits.
        device: The run's device.
        dropout: The setting `tekap.logit.dropout`.
        statistics: Computes the teacher's outputs for training images, with a forward pass over many of them.
    """

    classifier: nn.Module
    device: torch.device
    dropout: float
    statistics: Callable[[], TeacherStatistics]


class LogitPerturbation(ABC):
    """Samples `d` of an augmented teacher's logits, `teacher_scale * z + noise_weight * noise_std * d`.

    The mean square of `d`, over logits, training images and draws, is 1, so that perturbations differ in direction and
    not in size. `d` is computed from independent random numbers of variance 1.

    Args:
        context: The teacher; not read by perturbations that are the same for every teacher.

    Raises:
        UsageError: The perturbation cannot be built for this teacher.
    """

    needs_statistics: ClassVar[bool] = True
    """Whether it is built from the teacher's outputs for training images."""
    takes_distribution: ClassVar[bool] = True
    """Whether the user may choose the distribution of the random numbers; else they are uniform."""

    def __init__(self, context: PerturbationContext | None = None) -> None:
        super().__init__()

    def noise_dim(self, teacher: Knowledge) -> int:
        """Number of random numbers for one sample and one augmented teacher: by default one for each class."""
        return teacher.logits.shape[1]

    @abstractmethod
    def sample(self, teacher: Knowledge, labels: Labels, noise: Noise) -> Deviations:
        """The perturbations `d` of a batch.

        Args:
            teacher: The teacher's knowledge of the batch, or of its strongly augmented images.
            labels: The samples' class numbers, for perturbations that read them.
            noise: Random numbers of variance 1, `noise_dim` for each sample.
        """


def root_mean_square(squares: Tensor, problem: str) -> float:
    """The root of the squares' mean, by which a perturbation is divided.

    Args:
        squares: Numbers from 0 on.
        problem: The error's sentence if all of them are 0.

    Raises:
        UsageError: All are 0, or not finite.
    """
    found = float(squares.mean().sqrt())
    if not 0 < found < math.inf:
        raise UsageError(problem, "Use another perturbation: `tekap.logit.perturbation=isotropic`.")
    return found


PERTURBATIONS: Registry[type[LogitPerturbation]] = Registry("perturbation", "tekapctl.distillation.perturbations")
