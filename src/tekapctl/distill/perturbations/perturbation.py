"""What a perturbation of the teacher's logits is; each is one file beside this one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from tekapctl.errors import UsageError
from tekapctl.models.network import Knowledge
from tekapctl.registry import Registry

HALF_WIDTH = math.sqrt(3)
"""Uniform numbers from -sqrt(3) to sqrt(3) have variance one."""


@dataclass(frozen=True)
class TeacherStatistics:
    """What the teacher says of the training images as they are, neither cropped nor flipped; on the CPU.

    Attributes:
        logits: Its logits.
        labels: The images' class numbers.
        embedding_squares: The mean square of each of its embedding's entries.
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
    """What a perturbation may know when it is built.

    Attributes:
        classifier: The teacher's layer from embedding to logits.
        device: Where the run computes.
        dropout: The setting `tekap.logit.dropout`.
        survey: Asks the teacher of the training images: a pass over many of them, only made if called.
    """

    classifier: nn.Module
    device: torch.device
    dropout: float
    survey: Callable[[], TeacherStatistics]


class LogitPerturbation(ABC):
    """The deviation `d` of an augmented teacher, which says `teacher_scale * z + noise_weight * noise_std * d`.

    Its root mean square is 1 for each logit, over the training images and the draws. So perturbations differ in their
    direction and not in their size. It is made of independent random numbers of variance one.
    """

    asks: ClassVar[bool] = True
    """Whether it has the teacher asked of the training images."""
    takes_distribution: ClassVar[bool] = True
    """Whether the random numbers may have any distribution; else they are uniform, and decide by chance."""

    @classmethod
    @abstractmethod
    def of(cls, basis: PerturbationContext) -> "LogitPerturbation":
        """The perturbation of one teacher.

        Raises:
            UsageError: The teacher does not allow for it.
        """

    def numbers(self, view: Knowledge) -> int:
        """How many random numbers an augmented teacher's deviation for one sample takes; as many as classes.

        Args:
            view: The teacher's knowledge of some samples.
        """
        return view.logits.shape[1]

    @abstractmethod
    def sample(
        self, view: Knowledge, labels: Int64[Tensor, " batch"] | None, noise: Float[Tensor, "teachers batch numbers"]
    ) -> Float[Tensor, "teachers batch classes"]:
        """The deviations of a batch.

        Args:
            view: The teacher's knowledge of the batch, or of its strongly augmented images.
            labels: The samples' class numbers, for those that read them.
            noise: Random numbers of variance one.
        """

    def of_views(
        self,
        views: Sequence[Knowledge],
        labels: Int64[Tensor, " batch"] | None,
        noise: Float[Tensor, "teachers batch all_numbers"],
    ) -> Float[Tensor, "teachers batch all_classes"]:
        """The deviations of all views of a batch side by side, each made of its own part of the random numbers."""
        if len(views) == 1:
            return self.sample(views[0], labels, noise)
        parts = noise.split([self.numbers(view) for view in views], dim=2)
        return torch.cat([self.sample(view, labels, part) for view, part in zip(views, parts, strict=True)], dim=2)


def root_mean_square(squares: Tensor, problem: str) -> float:
    """The root of the squares' mean, by which a deviation is divided.

    Args:
        squares: They are all at least 0.
        problem: A sentence that says what is wrong where they are all 0.

    Raises:
        UsageError: They are all 0, or not finite.
    """
    found = float(squares.mean().sqrt())
    if not 0 < found < math.inf:
        raise UsageError(problem, "Use another perturbation: --set tekap.logit.perturbation=isotropic.")
    return found


PERTURBATIONS: Registry[type[LogitPerturbation]] = Registry("perturbation", "tekapctl.distill.perturbations")
