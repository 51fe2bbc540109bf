"""What a study is: ways of training, what is measured of each, and which differences answer its question."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tekapctl.commands.robustness.measure import Request
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrast import Contrast
from tekapctl.experiments.studies.outcome import TOP1, Outcome
from tekapctl.models import is_known
from tekapctl.registry import Registry
from tekapctl.settings import Settings
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict


@dataclass(frozen=True)
class Place:
    """Where an arm stands in the study's chart.

    Attributes:
        series: The line that it is on.
        at: The setting that the horizontal axis shows.
    """

    series: str
    at: float | int


@dataclass(frozen=True)
class Arm:
    """A way of training that a study compares, over seeds.

    Attributes:
        label: What it is called.
        spec: How it is trained; its seed is the study's affair.
        place: Where it stands in the chart, if the study has an axis.
    """

    label: str
    spec: TeacherSpec | StudentSpec
    place: Place | None = None


@dataclass(frozen=True)
class Before:
    """A network that must be trained before the arms that it teaches.

    Attributes:
        label: What arms name as their teacher.
        spec: How it is trained.
    """

    label: str
    spec: TeacherSpec | StudentSpec


@dataclass(frozen=True)
class Design:
    """All that a study does.

    Attributes:
        arms: The ways that are compared; each is shown with its difference from the first.
        contrasts: The differences that answer the question; all together are held to one level of error.
        outcomes: What is measured of each run.
        request: What must be measured of the trained networks for that, beside what every run's summary has.
        limit: Test images that are shifted for that; all if None.
        before: Networks that are trained first, beside the teacher.
        axis: What the chart's horizontal axis shows, doubling by doubling; None without a chart.
        counts_macs: Whether the cost of each run is among the outcomes.
    """

    arms: Sequence[Arm]
    contrasts: Sequence[Contrast]
    outcomes: Sequence[Outcome] = (TOP1,)
    request: Request | None = None
    limit: int | None = None
    before: Sequence[Before] = ()
    axis: str | None = None
    counts_macs: bool = False


@dataclass(frozen=True)
class Base:
    """What a study is carried out on.

    Attributes:
        spec: A student's run with TeKAP, from which the arms are made.
        teacher: How its teacher was trained or will be; None where nothing says.
    """

    spec: StudentSpec
    teacher: TeacherSpec | None = None

    @property
    def recipe(self) -> TeacherSpec:
        """How further teachers like the study's are trained: as it was, or else as long as the student.

        Raises:
            UsageError: Nothing says what network it is.
        """
        if self.teacher is not None:
            return self.teacher
        network = self.spec.teacher_model or self.spec.teacher
        if not is_known(network):
            raise UsageError(
                f"The study trains further teachers, and {network!r} does not say of which network.",
                "Name the teacher by its network, with --teacher-epochs to train it too.",
            )
        return teacher_of(self.spec, network, self.spec.epochs)


def teacher_of(spec: StudentSpec, network: str, epochs: int) -> TeacherSpec:
    """How a teacher of a student's run is trained: on all the images, with the published settings for its network.

    Args:
        spec: The student's run.
        network: The teacher's network.
        epochs: Its epochs.

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
    """A question with the runs that answer it; its fields are its settings."""

    question: ClassVar[str]
    """What it asks, in a sentence."""

    @abstractmethod
    def design(self, base: Base) -> Design:
        """The runs and the differences.

        Raises:
            UsageError: The setting has not what the study is about.
        """

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Its settings, by name."""
        return cls().model_dump(mode="json")


STUDIES: Registry[type[Study]] = Registry("study", "tekapctl.experiments.studies")
