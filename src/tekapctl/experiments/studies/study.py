"""What a study is made of: arms to train, outcomes to measure, and contrasts that answer its question."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tekapctl.commands.robustness import Request
from tekapctl.distillation.tekap import LEVELS
from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import NO_DISTILLATION
from tekapctl.experiments.studies.contrasts import TOP1, Contrast, Outcome, mean_of, trend, versus
from tekapctl.models import is_known
from tekapctl.registry import Registry
from tekapctl.settings import Settings
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.spec.effects import EFFECTS, OF_SOME, keep


@dataclass(frozen=True)
class Arm:
    """A training configuration that a study compares over seeds, which the study sets.

    In the study's chart it is the point at `x` on the line `series`.
    """

    label: str
    spec: TeacherSpec | StudentSpec
    series: str | None = None
    x: float | int | None = None


@dataclass(frozen=True)
class Design:
    """A study's runs and tests.

    Attributes:
        arms: The configurations; each is shown with its difference from the first.
        contrasts: The differences that answer the question, corrected together.
        outcomes: What is read from each run.
        request: Further measurements of the trained networks that outcomes need.
        limit: Number of test images for those; None for all.
        prerequisites: Networks that are trained first, besides the teacher, by the names that arms call them.
        axis: Label of the chart's horizontal axis (log scale); None without a chart.
    """

    arms: Sequence[Arm]
    contrasts: Sequence[Contrast]
    outcomes: Sequence[Outcome] = (TOP1,)
    request: Request | None = None
    limit: int | None = None
    prerequisites: Sequence[Arm] = ()
    axis: str | None = None


@dataclass(frozen=True)
class StudySetup:
    """What a study varies: a student's run with TeKAP, and how its teacher was or will be trained, if that is known."""

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
                "Give the teacher's network, with `teacher_epochs` to train it too.",
            )
        return teacher_of(self.spec, network, self.spec.epochs)


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


def teacher_of(spec: StudentSpec, network: str, epochs: int) -> TeacherSpec:
    """The spec of a student's teacher: all training images, and the published settings of its network.

    Raises:
        UsageError: There is no such network.
    """
    kept = ("batch_size", "device", "precision", "compile", "graph", "checkpoint_minutes", "name")
    data = spec.data.labelled.model_copy(update={"train_fraction": 1.0, "imbalance": 1.0})
    table = {field: value for field, value in to_dict(spec).items() if field in kept}
    found = parse({**table, "kind": "teacher", "model": network, "data": data, "epochs": epochs, "seed": 0})
    assert isinstance(found, TeacherSpec)
    return found


def relevant(spec: StudentSpec) -> StudentSpec:
    """The spec without augmented teachers at a level that none of its losses reads.

    Raises:
        UsageError: It has no augmented teachers.
    """
    found = with_tekap(spec, {level: {"teachers": 0} for level in LEVELS if level not in spec.levels})
    if not (found.tekap.logit.teachers or found.tekap.feature.teachers):
        raise UsageError("The study's runs would have no augmented teachers.", "Enable TeKAP, and not Angular-KD.")
    return found


def effects_of(spec: StudentSpec) -> list[str]:
    """The effects that TeKAP has on a spec's losses."""
    own = spec.method.own_effects if spec.beta and spec.tekap.feature.teachers else ()
    return [effect for effect in EFFECTS if effect in own or effect not in OF_SOME]


def plain(spec: StudentSpec) -> StudentSpec:
    """The method without TeKAP."""
    return spec.model_copy(update={"tekap": spec.tekap.without()})


def noiseless(spec: StudentSpec) -> StudentSpec:
    """TeKAP with all its effects except the noise: the control for the noise."""
    return keep(spec, [effect for effect in effects_of(spec) if effect != "noise"])


def undistilled(spec: StudentSpec) -> TeacherSpec:
    """The student's network trained without a teacher."""
    shared = {field: value for field, value in to_dict(spec).items() if field in TeacherSpec.model_fields}
    found = parse({**shared, "kind": "teacher", "model": spec.student, "data": spec.data.labelled})
    assert isinstance(found, TeacherSpec)
    return found


def changed(spec: StudentSpec, **fields: Any) -> StudentSpec:
    """A validated copy of a spec with other values of some fields.

    Raises:
        UsageError: The new spec is not valid.
    """
    found = parse({**to_dict(spec), **fields})
    assert isinstance(found, StudentSpec)
    return found


def with_tekap(spec: StudentSpec, levels: Mapping[str, Mapping[str, Any]]) -> StudentSpec:
    """A validated copy of a spec with other TeKAP settings, by level."""
    table = to_dict(spec)["tekap"]
    return changed(spec, tekap={level: {**settings, **levels.get(level, {})} for level, settings in table.items()})


def name_of(spec: StudentSpec) -> str:
    """What a spec's method is called without TeKAP: `KD`, `CRD` or `CRD + KD`."""
    name = spec.method.name.upper() if len(spec.method.name) < 5 else spec.method.name
    return f"{name} + KD" if spec.alpha and spec.method.has_loss else name


class Labels(NamedTuple):
    """Labels of the standard arms."""

    method: str
    tekap: str
    noiseless: str
    undistilled: str = NO_DISTILLATION

    @classmethod
    def of(cls, spec: StudentSpec) -> "Labels":
        """The labels for a spec's method."""
        name = name_of(spec)
        return cls(name, f"{name} + TeKAP", f"{name} + TeKAP without noise")

    def contrasts(self) -> list[Contrast]:
        """TeKAP against the method and against itself without noise, and the method against no distillation."""
        return [
            versus(self.tekap, self.method, f"TeKAP vs. {self.method}"),
            versus(self.tekap, self.noiseless, "TeKAP vs. TeKAP without noise"),
            versus(self.method, self.undistilled),
        ]


def standard_arms(spec: StudentSpec) -> tuple[list[Arm], Labels]:
    """The method, TeKAP, TeKAP without noise, and no distillation, with their labels."""
    spec = relevant(spec)
    labels = Labels.of(spec)
    specs: tuple[TeacherSpec | StudentSpec, ...] = (plain(spec), spec, noiseless(spec), undistilled(spec))
    return [Arm(label, made) for label, made in zip(labels, specs, strict=True)], labels


def over_axis(specs: Mapping[float | int, StudentSpec], setting: str, axis: str) -> Design:
    """The standard arms for each value (> 0) of a setting of the data; contrasts are means over all values.

    `setting` is its name in labels, and `axis` in the chart.
    """
    arms: list[Arm] = []
    by_arm: dict[str, list[str]] = {}
    for x, spec in specs.items():
        standard, labels = standard_arms(spec)
        for arm in standard:
            label = f"{arm.label}, {setting} {x:g}"
            by_arm.setdefault(arm.label, []).append(label)
            arms.append(Arm(label, arm.spec, arm.label, x))
    contrasts = []
    for contrast in labels.contrasts():
        one, other = contrast.weights
        contrasts.append(mean_of(contrast.label, list(zip(by_arm[one], by_arm[other], strict=True))))
    if len(specs) > 1:
        method, tekap = by_arm[labels.method], by_arm[labels.tekap]
        contrasts.append(trend(f"TeKAP vs. {labels.method}, trend", tekap, list(specs), method))
    return Design(arms, contrasts, axis=axis)
