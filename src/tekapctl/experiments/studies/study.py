"""The parts of a study: arms to train, outcomes to measure, and contrasts that answer its question."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tekapctl.commands.robustness import Request
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrasts import Contrast
from tekapctl.experiments.studies.outcomes import TOP1, Outcome
from tekapctl.models import is_known
from tekapctl.registry import Registry
from tekapctl.settings import Settings
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict


@dataclass(frozen=True)
class Arm:
    """A training configuration that a study compares over seeds.

    Attributes:
        label: Its name.
        spec: How it is trained; the study sets the seed.
        series: Its line in the study's chart, if the study has one.
        x: Its place on the chart's horizontal axis.
    """

    label: str
    spec: TeacherSpec | StudentSpec
    series: str | None = None
    x: float | int | None = None


@dataclass(frozen=True)
class Prerequisite:
    """A network that is trained before the arms that learn from it.

    Attributes:
        label: The name by which arms refer to it as their teacher.
        spec: How it is trained.
    """

    label: str
    spec: TeacherSpec | StudentSpec


@dataclass(frozen=True)
class Design:
    """A study's runs and tests.

    Attributes:
        arms: The configurations; each is shown with its difference from the first.
        contrasts: The differences that answer the question, corrected together.
        outcomes: What is read from each run.
        request: Further measurements of the trained networks that outcomes need.
        limit: Number of test images for those; None for all.
        prerequisites: Networks that are trained first, besides the teacher.
        axis: Label of the chart's horizontal axis (log scale); None without a chart.
        counts_macs: Whether training costs are among the outcomes.
    """

    arms: Sequence[Arm]
    contrasts: Sequence[Contrast]
    outcomes: Sequence[Outcome] = (TOP1,)
    request: Request | None = None
    limit: int | None = None
    prerequisites: Sequence[Prerequisite] = ()
    axis: str | None = None
    counts_macs: bool = False


@dataclass(frozen=True)
class StudySetup:
    """What a study varies.

    Attributes:
        spec: A student's run with TeKAP, from which the arms are derived.
        teacher: How its teacher was or will be trained; None if unknown.
    """

    spec: StudentSpec
    teacher: TeacherSpec | None = None

    @property
    def recipe(self) -> TeacherSpec:
        """How to train further teachers: like the study's teacher if that is known, else as long as the student.

        Raises:
            UsageError: The teacher's network is unknown.
        """
        if self.teacher is not None:
            return self.teacher
        network = self.spec.teacher_model or self.spec.teacher
        if not is_known(network):
            raise UsageError(
                f"The study trains further teachers, but {network!r} does not say which network to train.",
                "Give the teacher's network, with --teacher-epochs to train it too.",
            )
        return teacher_of(self.spec, network, self.spec.epochs)


def teacher_of(spec: StudentSpec, network: str, epochs: int) -> TeacherSpec:
    """The spec of a student's teacher: all training images, and the published settings of its network.

    Args:
        spec: The student's run.
        network: The teacher's network.
        epochs: Its training epochs.

    Raises:
        UsageError: There is no such network.
    """
    kept = ("batch_size", "device", "precision", "compile", "checkpoint_minutes", "name")
    data = spec.data.model_copy(update={"train_fraction": 1.0, "imbalance": 1.0})
    table = {field: value for field, value in to_dict(spec).items() if field in kept}
    found = parse({**table, "kind": "teacher", "model": network, "data": data, "epochs": epochs, "seed": 0})
    assert isinstance(found, TeacherSpec)
    return found


class Study(Settings, ABC):
    """A research question with the runs that answer it; its fields are its settings."""

    question: ClassVar[str]
    """The question, in a sentence."""

    @abstractmethod
    def design(self, setup: StudySetup) -> Design:
        """The runs and the contrasts.

        Raises:
            UsageError: The spec lacks what the study varies.
        """

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default settings, by name."""
        return cls().model_dump(mode="json")


STUDIES: Registry[type[Study]] = Registry("study", "tekapctl.experiments.studies")
