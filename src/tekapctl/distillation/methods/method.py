"""Base classes of distillation methods: settings and loss. Methods are found by name."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods.pair import Pair
from tekapctl.distillation.tekap import AugmentedTeachers
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge, Level, Requires
from tekapctl.models.network import Network
from tekapctl.randomness import seeded
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
    """Where a method comes from, its formula, and what else a user should know, for `tekapctl methods` and the docs."""

    paper: str
    year: int
    formula: str
    note: str = ""


InitEpochs = Annotated[
    int, Field(ge=0, le=1_000_000, description="Epochs of the init stage, which comes before the run's epochs.")
]


def no_maps(network: str) -> UsageError:
    """The error for a network without the feature maps that a method reads, as some external ones."""
    return UsageError(
        f"The method reads feature maps that {network} does not return, such as those before a ReLU.",
        "Choose another method, or write the network as a tekapctl.models.Network.",
    )


class Method(nn.Module, ABC):
    """A distillation loss with its own trainable parts and buffers.

    Args:
        spec: The method's settings, kept as `spec`.
    """

    spec: Any
    requires: Requires = Requires(embedding=True)
    """What the spec declares; set by `MethodSpec.build`."""
    init_trains_student: ClassVar[bool] = True
    """Whether the student is trained in the init stage, and not only the method's own parts."""
    init_only: ClassVar[bool] = False
    """Whether the method has a loss in its init stage only."""
    couples_samples: ClassVar[bool] = True
    """Whether the loss compares samples, so that several processes must gather the batch. False if it is a mean over
    samples."""
    is_recordable: ClassVar[bool] = False
    """For your own methods: whether a CUDA graph can record the loss, which then depends on the step only through
    `Warmup` and `CosineDecay`, writes to its buffers in place and changes nothing else."""
    standardizes_logits: ClassVar[bool] = False
    """Whether the method itself standardizes logits (`standardize_logits`), instead of getting standardized ones."""

    def __init__(self, spec: Any = None) -> None:
        super().__init__()
        self.spec = spec

    @property
    def level(self) -> Level:
        """Where TeKAP augments the teacher for this method."""
        return self.requires.level

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the init stage under one teacher.

        Raises:
            NotImplementedError: The method has no init stage.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a batch under one teacher, in float32.

        Args:
            student: The student's knowledge of the batch.
            teacher: The knowledge of the teacher or of an augmented teacher, without gradients.
            batch: The labels, the samples' indices and the step.
        """

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """The weighted losses under the teacher and under each augmented teacher."""
        return sum_over_teachers(self.loss, student, teacher, augmented, batch)

    def augmented_init_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        """The same of the init stage's losses."""
        return sum_over_teachers(self.init_loss, student, teacher, augmented, batch)


class TwoSidedMethod(Method):
    """A loss that compares something computed from the student with each teacher.

    The student's side is computed once per step, whatever the number of augmented teachers: it is the larger part of
    the work, and batch norms in it must see each batch once.
    """

    @abstractmethod
    def student_side(self, student: Knowledge, teacher: Knowledge) -> Any:
        """What is compared with the teachers, such as the student's maps after connectors.

        Args:
            student: The student's knowledge of the batch.
            teacher: The teacher's, for the shapes that all teachers have.
        """

    @abstractmethod
    def compare(self, ours: Any, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The loss of the student's side under one teacher."""

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return self.compare(self.student_side(student, teacher), teacher, batch)

    def augmented_loss(
        self, student: Knowledge, teacher: Knowledge, augmented: AugmentedTeachers, batch: Batch
    ) -> Float[Tensor, ""]:
        return sum_over_teachers(self.compare, self.student_side(student, teacher), teacher, augmented, batch)


def scaled(loss: Float[Tensor, ""], weight: float) -> Float[Tensor, ""]:
    """A weighted loss; exactly the loss itself if the weight is 1."""
    return loss if weight == 1 else weight * loss


def sum_over_teachers(
    loss: Callable[[Any, Knowledge, Batch], Tensor],
    student: Any,
    teacher: Knowledge,
    augmented: AugmentedTeachers,
    batch: Batch,
) -> Float[Tensor, ""]:
    """The weighted losses under the teacher and under each augmented teacher.

    Args:
        loss: The loss of the student under one teacher.
        student: Its first argument: the student's knowledge, or what was computed from it.
        teacher: The teacher's knowledge.
        augmented: The augmented teachers, and the weights.
        batch: The batch.
    """
    total = scaled(loss(student, teacher, batch), augmented.spec.teacher_loss_weight)
    for perspective in augmented:
        total = total + augmented.spec.loss_weight * loss(student, perspective, batch)
    return total


class MethodSpec(Settings, ABC):
    """The settings of a method; each method has a subclass in its own file."""

    weights: ClassVar[Weights] = Weights()
    about: ClassVar[About] = About("unpublished", 0, "not documented")
    requires: ClassVar[Requires]
    """What the loss reads; every method declares it. TeKAP's level, run labels, the teacher cache, sweeps and docs are
    derived from it."""
    tekap: ClassVar[bool] = False
    """Whether TeKAP was published with this method, so that it is on by default."""
    reads_labels: ClassVar[bool] = False
    """Whether the loss reads labels but not the teacher's classes."""
    has_loss: ClassVar[bool] = True
    """Whether the method has a loss of its own for beta to weigh; KD's is weighed by alpha."""
    own_effects: ClassVar[frozenset[str]] = frozenset()
    """The effects of TeKAP (`spec.effects`) that it has on this method and not on all."""

    name: str = Field(description="Name of the method.")

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a method that does not declare what it reads."""
        if not hasattr(cls, "requires"):
            raise TypeError(f"{cls.__name__} does not declare what it reads, such as requires = Requires(logits=True)")

    @property
    def refuses_repeats(self) -> str | None:
        """Why a batch must not hold an image several times, and what to set instead; None if it may."""
        return None

    def init_lr(self, student: str) -> float | None:
        """The published learning rate of the method's init stage for a student's network; None for the run's."""
        return None

    def memory_bytes(self, samples: int, batch_size: int, teachers: int) -> int:
        """Upper bound on what the loss keeps in memory, in bytes, beside networks and activations."""
        return 0

    def learner(self, student: Network, pair: Pair) -> Network:
        """The network that is trained, tested and stored: the student, or a network that the method builds from it."""
        return student

    def build(self, pair: Pair) -> Method | None:
        """The method's own loss, which beta weighs; None for KD, which alpha weighs.

        Trainable parts are initialized from the pair's seed.

        Raises:
            UsageError: A network lacks the feature maps that the method reads, or the networks do not fit together.
        """
        read = [name for name in ("feature_maps", "preactivations") if getattr(self.requires, name)]
        for role, knowledge in (("student", pair.student), ("teacher", pair.teacher)):
            if read and not any(getattr(knowledge, name) for name in read):
                raise no_maps(f"the {role}")
        with seeded(pair.seed):
            method = self.make(pair)
        if method is not None:
            method.requires = self.requires
        return method

    @abstractmethod
    def make(self, pair: Pair) -> Method | None:
        """The method's own loss for a student and a teacher."""


METHODS: Registry[type[MethodSpec]] = Registry(
    "method",
    "tekapctl.distillation.methods",
    lambda found: isinstance(found, type) and issubclass(found, MethodSpec) and not inspect.isabstract(found),
)
