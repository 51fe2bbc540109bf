"""What a distillation method is: its spec, its loss, and where both are found by name."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from tekapctl.data.batches import Batch
from tekapctl.distill.methods.feature_maps import no_maps
from tekapctl.distill.tekap import AugmentedTeachers
from tekapctl.models.network import Knowledge, Level, Network, Requires
from tekapctl.registry import Registry
from tekapctl.settings import Settings


@dataclass(frozen=True)
class Weights:
    """Default weights of the cross-entropy, of KD's logit loss and of the method's own loss."""

    gamma: float = 1.0
    alpha: float = 0.0
    beta: float = 1.0


@dataclass(frozen=True)
class About:
    """Where a method comes from, for `tekapctl methods` and the docs.

    Attributes:
        paper: Title of the paper.
        year: Its year.
        formula: The loss.
        note: What else a user should know.
    """

    paper: str
    year: int
    formula: str
    note: str = ""


InitEpochs = Annotated[
    int, Field(ge=0, le=1_000_000, description="Epochs of the first stage, before the run's epochs.")
]


@dataclass(frozen=True)
class Warmup:
    """A weight that rises from 1 / epochs in the first epoch to 1.

    Attributes:
        epochs: Epochs until it is 1; 0 starts with 1.
        steps: Steps an epoch.
        first: Epochs of a first stage, from whose end on it rises.
    """

    epochs: int
    steps: int
    first: int = 0

    def __call__(self, step: int) -> float:
        """The weight at a step, counted from the beginning of the first stage."""
        epoch = max(1, step // self.steps + 1 - self.first)
        return min(1.0, epoch / self.epochs) if self.epochs else 1.0


@dataclass(frozen=True)
class CosineDecay:
    """A weight of 1 that falls to 0 in the last epoch, by half a cosine.

    Attributes:
        start: The last epoch, counted from 1, in which it is 1.
        epochs: Epochs of the run.
        steps: Steps an epoch.
        first: Epochs of a first stage, which do not count.
    """

    start: int
    epochs: int
    steps: int
    first: int = 0

    def __call__(self, step: int) -> float:
        """The weight at a step, counted from the beginning of the first stage."""
        epoch = step // self.steps + 1 - self.first
        if epoch <= self.start or self.epochs <= self.start:
            return 1.0
        return (1 + math.cos(math.pi * (epoch - self.start) / (self.epochs - self.start))) / 2


ClassFeatures = Callable[[int], Float[Tensor, "classes images width"]]
"""Computes the teacher's embeddings of up to N training images per class, the same number for each."""


@dataclass(frozen=True)
class Pair:
    """What a method may know of the student, the teacher and the training set when it is built.

    Attributes:
        student: The student's knowledge of a small probe batch.
        teacher: The teacher's knowledge of the same batch.
        labels: The training set's labels; sample `i` of the set has label `labels[i]`.
        seed: The run's seed.
        steps_per_epoch: Steps of an epoch.
        teacher_norms: The teacher's batch norms in front of its stages' ReLUs (`Network.norms_before_relu`).
        standardize_logits: Whether logit losses are to see logits of mean 0 and deviation 1.
        epochs: Epochs of the run; 0 where nobody counts them.
        first_epochs: Epochs of a first stage before them, as that of learned views.
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
        """How a weight rises over the first epochs."""
        return Warmup(epochs, self.steps_per_epoch, self.init_epochs)

    def cosine_decay(self, start: float) -> CosineDecay:
        """How a weight falls after a fraction of the run's epochs."""
        return CosineDecay(round(start * self.epochs), self.epochs, self.steps_per_epoch, self.init_epochs)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator of the CPU, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Method(nn.Module, ABC):
    """A distillation loss with its own trainable parts and buffers."""

    requires: Requires = Requires(embedding=True)
    """What its spec declares; `MethodSpec.build` sets it."""
    init_epochs: int = 0
    """Epochs of a first stage, in which `init_loss` is all there is."""
    init_trains_student: ClassVar[bool] = True
    couples_samples: ClassVar[bool] = True
    """Whether the losses are more than means over samples, so that several processes must bring theirs together."""
    standardizes_logits: ClassVar[bool] = False
    """Whether it standardises logits by itself where the run asks for it, instead of getting standardised ones."""
    init_only: ClassVar[bool] = False
    """Whether nothing of the method is left after its first stage."""

    @property
    def level(self) -> Level:
        """Where TeKAP augments the teacher for this method."""
        return self.requires.level

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the first stage under one teacher.

        Raises:
            NotImplementedError: The method has no first stage.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss under one teacher."""

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """The weighted losses under the teacher and under each augmented teacher."""
        return sum_over_teachers(self.loss, student, teacher, augmented, batch)


def scaled(loss: Float[Tensor, ""], weight: float) -> Float[Tensor, ""]:
    """A loss times its weight, and the very loss where that is 1."""
    return loss if weight == 1 else weight * loss


def sum_over_teachers(
    loss: Callable[[Knowledge, Knowledge, Batch], Tensor],
    student: Knowledge,
    teacher: Knowledge,
    augmented: AugmentedTeachers,
    batch: Batch,
) -> Float[Tensor, ""]:
    """The weighted losses under the teacher and under each augmented teacher."""
    total = scaled(loss(student, teacher, batch), augmented.spec.teacher_loss_weight)
    for perspective in augmented:
        total = total + augmented.spec.loss_weight * loss(student, perspective, batch)
    return total


class MethodSpec(Settings, ABC):
    """The settings of a method; each method has a subclass in its own file."""

    weights: ClassVar[Weights] = Weights(gamma=1.0, alpha=0.0, beta=1.0)
    about: ClassVar[About] = About("unpublished", 0, "not documented")
    views: ClassVar[int] = 1
    """How many views of each image the networks see."""
    requires: ClassVar[Requires]
    """What the loss reads. Labels of runs, the level at which TeKAP augments, the teacher cache, sweeps and docs follow
    from it; every method declares it."""
    tekap: ClassVar[bool] = False
    """Whether TeKAP was published with this method, and is on unless it is switched off."""

    name: str = Field(description="Name of the method.")

    def init_lr(self, student: str) -> float | None:
        """The published learning rate of the method's first stage; None for the run's.

        Args:
            student: Name of the student's network.
        """
        return None

    def learner(self, student: Network, pair: Pair) -> Network:
        """The network that learns, is tested and stored: the student, or what the method makes of it."""
        return student

    def build(self, pair: Pair) -> Method | None:
        """The method's own loss, weighted by beta; None for KD, which is the logit loss that alpha weighs.

        Trainable parts are initialised from the pair's seed.

        Raises:
            UsageError: A network lacks the feature maps that the method reads, or the networks do not fit together.
        """
        for role, knowledge in (("student", pair.student), ("teacher", pair.teacher)):
            maps = [*(knowledge.feature_maps * self.requires.feature_maps)]
            maps += knowledge.preactivations * self.requires.preactivations
            if not maps and (self.requires.feature_maps or self.requires.preactivations):
                raise no_maps(f"the {role}")
        with seeded(pair.seed):
            method = self.make(pair)
        if method is not None:
            method.requires = self.requires
        return method

    @abstractmethod
    def make(self, pair: Pair) -> Method | None:
        """The method's own loss, from its settings and what is known of both networks."""


METHODS: Registry[type[MethodSpec]] = Registry(
    "method",
    "tekapctl.distill.methods",
    lambda found: (
        isinstance(found, type)
        and issubclass(found, MethodSpec)
        and not inspect.isabstract(found)
        and hasattr(found, "requires")
    ),
)
