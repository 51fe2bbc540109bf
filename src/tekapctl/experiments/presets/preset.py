"""Published accuracies with their settings and sources, from `published.json`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from tekapctl import models
from tekapctl.distill.angular import PUBLISHED_VIEWS
from tekapctl.distill.methods import METHODS
from tekapctl.registry import unknown_name
from tekapctl.spec import StudentSpec, merged

Dataset = Literal["cifar100", "imagenet"]
Epoch = Literal["last", "best", "not stated"]


@dataclass(frozen=True)
class Published:
    """What a paper or its code states of a method on a pair of networks.

    Attributes:
        way: How it is distilled: a method, or one of the ways of `tekapctl.experiments.presets.preset`.
        dataset: The data set.
        teacher: The teacher.
        student: The student.
        top1: Test accuracy in percent; None if only the settings are published.
        epoch: Whether that is the last epoch's, or the best on the test set; None without a number.
        source: Where it is stated: a repository with its commit, or a paper.
        deviation: Standard deviation over runs, if stated.
        fields: Fields of the spec in which the pair differs from others.
    """

    way: str
    dataset: Dataset
    teacher: str
    student: str
    top1: float | None
    epoch: Epoch | None
    source: str
    deviation: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)


@cache
def published() -> dict[tuple[str, Dataset, str, str], Published]:
    """All of them, by way, data set, teacher and student."""
    text = (files("tekapctl.experiments.presets") / "published.json").read_text(encoding="utf-8")
    rows = [Published(**row) for row in json.loads(text)]
    return {(row.way, row.dataset, row.teacher, row.student): row for row in rows}


PAIRS = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
)
"""The thirteen pairs of RepDistiller's tables."""
_IMAGENET_PAIR = ("resnet34", "resnet18")
"""The pair of torchvision's networks that most papers compare on ImageNet."""

_NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
_VIEWS = {"views": PUBLISHED_VIEWS}
_KD = {"method": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0}
_CRD = {"method": "crd", "gamma": 1.0, "alpha": 0.0, "beta": 0.8}
_BOTH = {"method": "crd", "gamma": 1.0, "alpha": 1.0, "beta": 0.8}
_STANDARDIZED = {"tekap": _NO_TEKAP, "standardize_logits": True}
_WAYS: dict[str, dict[str, Any]] = {
    "kd": {**_KD, "tekap": _NO_TEKAP},
    "crd": {**_CRD, "tekap": _NO_TEKAP},
    "crd-kd": {**_BOTH, "tekap": _NO_TEKAP},
    "tekap-l": _KD,
    "tekap-f": _CRD,
    "tekap-fl": _BOTH,
    "angular-l": {**_KD, "alpha": 1.0, "angular": _VIEWS},
    "angular-f": {**_CRD, "angular": _VIEWS},
    "angular-fl": {**_BOTH, "angular": _VIEWS},
    "kd-ls": {**_KD, **_STANDARDIZED, "alpha": 9.0, "temperature": 2.0},
    "dkd-ls": {
        **_STANDARDIZED,
        "method": {"name": "dkd", "target_weight": 9.0, "non_target_weight": 72.0, "temperature": 2.0},
    },
    "mlkd-ls": {**_STANDARDIZED, "method": "mlkd", "beta": 9.0},
    "dot": {**_KD, "tekap": _NO_TEKAP, "optimizer": {"dot_delta": 0.075}},
}
"""TeKAP and Angular-KD at the logit level (l), the feature level (f) and both (fl), and what they are built on; methods
with standardised logits (ls); KD with DOT. Any other way is the method of that name."""
_AS_KD = {"tekap-l": "kd", "angular-l": "kd"}
"""Ways that were not published on ImageNet, and have KD's settings there."""
_IMAGENET: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 256,
    "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4, "milestones": (0.3, 0.6, 0.9)},
}
"""The usual recipe there: the learning rate falls after 30, 60 and 90 of 100 epochs."""


@dataclass(frozen=True)
class Preset:
    """A published experiment.

    Attributes:
        way: How it is distilled.
        teacher: The teacher.
        student: The student.
        dataset: The data set; on ImageNet the networks are torchvision's.
    """

    way: str
    teacher: str
    student: str
    dataset: Dataset = "cifar100"

    @property
    def name(self) -> str:
        """What `--preset` takes."""
        return f"{'imagenet/' if self.dataset == 'imagenet' else ''}{self.way}/{self.teacher}-{self.student}"

    @property
    def published(self) -> Published | None:
        """What is published of it; None for a pair that nothing is stated of, with the method's usual settings."""
        return published().get((self.way, self.dataset, self.teacher, self.student))

    @property
    def source(self) -> str:
        """Where its settings are stated; empty if nowhere."""
        return "" if self.published is None else self.published.source

    @property
    def settings(self) -> str:
        """The fields that are the pair's own, for people."""
        return ", ".join(_assignments(self.published.fields)) if self.published is not None else ""

    @property
    def table(self) -> dict[str, Any]:
        """The fields of its spec."""
        values = dict(_WAYS.get(self.way, {"method": self.way, "tekap": _NO_TEKAP}))
        library = ""
        if self.dataset == "imagenet":
            values, library = merged(_IMAGENET, values), "torchvision:"
        elif self.way.partition("-")[0] == "mlkd":
            rate = models.learning_rate(self.student)
            values["optimizer"] = {"learning_rate": 0.025 if rate == 0.05 else rate}
        way = _AS_KD.get(self.way, self.way) if self.dataset == "imagenet" else self.way
        row = published().get((way, self.dataset, self.teacher, self.student))
        if row is not None:
            values = merged(values, row.fields)
        networks = {"teacher": library + self.teacher, "student": library + self.student}
        return {"kind": "student", **networks, "data": {"name": self.dataset}, **values}


def _assignments(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{path}{name}.")
        elif (path, name) != ("method.", "name"):
            shown = [round(each, 4) for each in value] if isinstance(value, list) else value
            yield f"{path}{name}={shown}"


def presets() -> Iterator[Preset]:
    """All of them: each way with each pair, and the pairs that something is published of."""
    found = [
        Preset(way, *pair)
        for way in [*_WAYS, *sorted(set(METHODS.names()) - set(_WAYS))]
        for pair in (*PAIRS, _IMAGENET_PAIR)
    ]
    listed = [Preset(one.way, one.teacher, one.student, _dataset(one)) for one in found]
    yield from dict.fromkeys([*listed, *(Preset(way, t, s, dataset) for way, dataset, t, s in published())])


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        UsageError: There is none; the message has the nearest.
    """
    known = {found.name: found for found in presets()}
    if name not in known:
        raise unknown_name("preset", name, list(known))
    return known[name]


def for_pair(spec: StudentSpec) -> Preset | None:
    """The preset of a run's method, data set and networks, if settings were published for this pair alone."""
    if spec.method.tekap:
        return None  # the published settings of KD and CRD are those without TeKAP
    dataset = spec.data.name.partition(":")[0]
    teacher, student = (name.removeprefix("torchvision:") for name in (spec.teacher, spec.student))
    found = [one for one in presets() if one.published is not None and one.published.fields]
    wanted = (spec.method.name, teacher, student, dataset)
    return next((one for one in found if (one.way, one.teacher, one.student, one.dataset) == wanted), None)


def _dataset(one: Preset) -> Dataset:
    return "imagenet" if (one.teacher, one.student) == _IMAGENET_PAIR else "cifar100"
