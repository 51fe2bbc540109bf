"""Published experiments, from `published.json`: settings, accuracies and where both are stated."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from tekapctl import models
from tekapctl.distillation.angular import PUBLISHED_VIEWS
from tekapctl.distillation.methods import METHODS
from tekapctl.distillation.tekap import NO_TEKAP
from tekapctl.errors import UsageError
from tekapctl.registry import did_you_mean
from tekapctl.spec import StudentSpec, merged

Dataset = Literal["cifar100", "imagenet"]
Epoch = Literal["last", "best", "not stated"]


@dataclass(frozen=True)
class Published:
    """What a paper or its code states of a method on a pair of networks.

    Attributes:
        way: How it is distilled: a method, or one of the ways of `tekapctl.experiments.presets.preset`.
        dataset: The dataset.
        teacher: The teacher.
        student: The student.
        top1: Test accuracy in percent; None if only the settings are published.
        epoch: Whether that is the last epoch's, or the best on the test set; None without a number.
        source: Where the accuracy is stated: a repository with its commit, or a paper.
        settings_source: Where the settings are stated; None if nowhere.
        settings: Fields of the spec that differ from the method's defaults; None if the settings are not known or the
            networks are not available, so that the experiment cannot be run.
        deviation: Standard deviation over runs, if stated.
    """

    way: str
    dataset: Dataset
    teacher: str
    student: str
    top1: float | None
    epoch: Epoch | None
    source: str | None
    settings_source: str | None
    settings: dict[str, Any] | None
    deviation: float | None = None


@cache
def published() -> dict[tuple[str, Dataset, str, str], Published]:
    """All of them, by way, dataset, teacher and student."""
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

_VIEWS = {"views": PUBLISHED_VIEWS}
_KD = {"method": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0}
_CRD = {"method": "crd", "gamma": 1.0, "alpha": 0.0, "beta": 0.8}
_BOTH = {"method": "crd", "gamma": 1.0, "alpha": 1.0, "beta": 0.8}
_STANDARDIZED = {"tekap": NO_TEKAP, "standardize_logits": True}
_WAYS: dict[str, dict[str, Any]] = {
    "kd": {**_KD, "tekap": NO_TEKAP},
    "crd": {**_CRD, "tekap": NO_TEKAP},
    "crd-kd": {**_BOTH, "tekap": NO_TEKAP},
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
    "dot": {**_KD, "tekap": NO_TEKAP, "optimizer": {"name": "dot"}},
}
"""TeKAP and Angular-KD at the logit level (l), the feature level (f) and both (fl), and what they are built on; methods
with standardised logits (ls); KD with DOT. Any other way is the method of that name."""
_VARIANTS = {"kd-simkd": "kd", "kd-dist": "kd", "simkd-4": "simkd", "simkd-8": "simkd"} | {
    f"{way}-ea": way for way in ("dkd", "dkd-ls", "mlkd", "mlkd-ls", "reviewkd")
}
"""Published rows that differ from another way in their settings only: KD as the authors of SimKD and DIST ran it,
SimKD's other factors, and EA-KD's weights (ea)."""
_AS_KD = {"tekap-l": "kd", "angular-l": "kd"}
"""Ways that were not published on ImageNet, and have KD's settings there."""
_IMAGENET: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 256,
    "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4},
    "schedule": {"milestones": (0.3, 0.6, 0.9)},
}
"""The usual recipe there: the learning rate falls after 30, 60 and 90 of 100 epochs."""


@dataclass(frozen=True)
class Preset:
    """A published experiment, or a method's defaults on a pair of which nothing is published.

    The way is how it is distilled. On ImageNet the networks are torchvision's.
    """

    way: str
    teacher: str
    student: str
    dataset: Dataset = "cifar100"

    @property
    def name(self) -> str:
        """The name by which a run takes its settings."""
        return f"{'imagenet/' if self.dataset == 'imagenet' else ''}{self.way}/{self.teacher}-{self.student}"

    @property
    def published(self) -> Published | None:
        """What is published of it; None for a pair of which nothing is, with the method's usual settings."""
        return published().get((self.way, self.dataset, self.teacher, self.student))

    @property
    def is_runnable(self) -> bool:
        """Whether its settings are known and its networks available."""
        return self.published is None or self.published.settings is not None

    @property
    def table(self) -> dict[str, Any]:
        """The fields of its spec.

        Raises:
            UsageError: Only its accuracy is known.
        """
        if not self.is_runnable:
            raise UsageError(
                f"Only the accuracy of {self.name} is published; its settings are not known or its networks are not "
                "available.",
                "Choose a method and networks yourself.",
            )
        way = _VARIANTS.get(self.way, self.way)
        values = dict(_WAYS.get(way, {"method": way, "tekap": NO_TEKAP}))
        library = ""
        if self.dataset == "imagenet":
            values, library = merged(_IMAGENET, values), "torchvision:"
        elif way.partition("-")[0] == "mlkd":
            rate = models.learning_rate(self.student)
            values["optimizer"] = {"learning_rate": 0.025 if rate == 0.05 else rate}
        table = {
            "kind": "student",
            "teacher": library + self.teacher,
            "student": library + self.student,
            "data": {"name": self.dataset},
            **merged(values, self.settings),
        }
        return copy.deepcopy(table)

    def table_for(self, epochs: int) -> dict[str, Any]:
        """The same for another number of epochs, at which a pair's own milestones give way to the usual ones.

        Some were published as absolute epochs: 150, 180 and 210 of 480 are no schedule for 10.
        """
        table = self.table
        if "milestones" in self.settings.get("schedule", {}) and epochs != table.get("epochs"):
            del table["schedule"]["milestones"]
            if self.dataset == "imagenet":
                table["schedule"]["milestones"] = _IMAGENET["schedule"]["milestones"]
        return table

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that were published for this pair."""
        way = _AS_KD.get(self.way, self.way) if self.dataset == "imagenet" else self.way
        row = published().get((way, self.dataset, self.teacher, self.student))
        return {} if row is None or row.settings is None else row.settings


def presets() -> Iterator[Preset]:
    """All published rows, and the defaults of each way on the pairs of which nothing is published."""
    listed = [
        Preset(way, *pair, "imagenet" if pair == _IMAGENET_PAIR else "cifar100")
        for way in [*_WAYS, *sorted(set(METHODS.names()) - set(_WAYS))]
        for pair in (*PAIRS, _IMAGENET_PAIR)
    ]
    yield from dict.fromkeys([*listed, *(Preset(way, t, s, dataset) for way, dataset, t, s in published())])


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        UsageError: There is none; the message has the nearest three.
    """
    known = {found.name: found for found in presets()}
    if name not in known:
        runnable = (each for each, one in known.items() if one.is_runnable)
        remedy = did_you_mean(name, runnable) or "`tekapctl presets` lists them."
        raise UsageError(f"There is no preset named {name!r}.", remedy)
    return known[name]


def for_pair(spec: StudentSpec) -> Preset | None:
    """The preset whose settings were published for a run's method, dataset and networks.

    With augmented teachers or learned views, the row of the method without them counts where there is none with them.
    """
    dataset = spec.data.name.partition(":")[0]
    prefix = "torchvision:" if dataset == "imagenet" else ""
    if dataset not in ("cifar100", "imagenet") or not all(
        name.startswith(prefix) for name in (spec.teacher, spec.student)
    ):
        return None
    teacher, student = (name.removeprefix(prefix) for name in (spec.teacher, spec.student))
    for way in _ways(spec):
        row = published().get((way, dataset, teacher, student))  # type: ignore[arg-type]
        if row is not None and row.settings is not None:
            return Preset(way, teacher, student, row.dataset)
    return None


def _ways(spec: StudentSpec) -> Iterator[str]:
    """The ways that a spec may be, the closest first."""
    method = spec.method
    way, level = method.name, {"kd": "l", "crd": "f"}.get(method.name)
    if method.name == "crd" and spec.alpha:
        way, level = "crd-kd", "fl"
    if method.name == "wttm" and not getattr(method, "weighted", True):
        way = "ttm"
    if method.name == "kd" and spec.optimizer.name == "dot":
        way, level = "dot", None
    if spec.standardize_logits:
        way, level = f"{method.name}-ls", None
    if getattr(method, "entropy_weights", False):
        way += "-ea"
    kind = "angular" if spec.angular.views else "tekap" if spec.augmented else None
    if level is not None and kind is not None:
        yield f"{kind}-{level}"
    yield way
    if method.name == "crd" and way == "crd-kd":
        yield "crd"
