"""The published experiments on CIFAR-100 and ImageNet by name: a way of distilling and a pair of networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tekapctl import models
from tekapctl.angular import PUBLISHED_VIEWS
from tekapctl.methods import METHODS
from tekapctl.registry import unknown_name

PAIRS: dict[tuple[str, str], dict[str, float]] = {
    ("wrn_40_2", "wrn_16_2"): {"kd": 74.92, "crd": 75.48, "crd-kd": 75.64, "dkd": 76.23},
    ("wrn_40_2", "wrn_40_1"): {"kd": 73.54, "crd": 74.14, "crd-kd": 74.38, "dkd": 74.81},
    ("resnet56", "resnet20"): {"kd": 70.66, "crd": 71.16, "crd-kd": 71.63, "dkd": 71.97},
    ("resnet110", "resnet20"): {"kd": 70.67, "crd": 71.46, "crd-kd": 71.56},
    ("resnet110", "resnet32"): {"kd": 73.08, "crd": 73.48, "crd-kd": 73.75, "dkd": 74.11},
    ("resnet32x4", "resnet8x4"): {
        "kd": 73.33,
        "crd": 75.51,
        "crd-kd": 75.46,
        "dkd": 76.32,
        "mlkd": 77.08,
        "tekap-l": 74.79,
        "tekap-f": 75.65,
        "tekap-fl": 75.98,
        "angular-l": 76.08,
        "angular-f": 75.82,
        "angular-fl": 76.46,
    },
    ("vgg13", "vgg8"): {"kd": 72.98, "crd": 73.94, "crd-kd": 74.29, "dkd": 74.68},
    ("vgg13", "MobileNetV2"): {"kd": 67.37, "crd": 69.73, "crd-kd": 69.94, "dkd": 69.71},
    ("ResNet50", "MobileNetV2"): {"kd": 67.35, "crd": 69.11, "crd-kd": 69.54, "dkd": 70.35},
    ("ResNet50", "vgg8"): {"kd": 73.81, "crd": 74.30, "crd-kd": 74.58},
    ("resnet32x4", "ShuffleV1"): {"kd": 74.07, "crd": 75.11, "crd-kd": 75.12, "dkd": 76.45},
    ("resnet32x4", "ShuffleV2"): {"kd": 74.45, "crd": 75.65, "crd-kd": 76.05, "dkd": 77.07},
    ("wrn_40_2", "ShuffleV1"): {"kd": 74.83, "crd": 76.05, "crd-kd": 76.27, "dkd": 76.70},
}
"""The thirteen pairs, with the top-1 in percent that tables have for them.

KD, CRD and both are from RepDistiller's, DKD from mdistiller's; TeKAP, Angular-KD and MLKD are from Angular-KD's
(arXiv 2510.22480), which has TeKAP's numbers for one pair.
"""

_NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
_VIEWS = {"views": PUBLISHED_VIEWS}
_MLKD_RATES = {0.05: 0.025}
"""MLKD's published learning rate, where the student's usual one is another."""
_DKD_WEIGHTS = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "MobileNetV2"): 6.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
}
_WAYS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0, "tekap": _NO_TEKAP},
    "crd": {"method": "crd", "gamma": 1.0, "alpha": 0.0, "beta": 0.8, "tekap": _NO_TEKAP},
    "crd-kd": {"method": "crd", "gamma": 1.0, "alpha": 1.0, "beta": 0.8, "tekap": _NO_TEKAP},
    "tekap-l": {"method": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0},
    "tekap-f": {"method": "crd", "gamma": 1.0, "alpha": 0.0, "beta": 0.8},
    "tekap-fl": {"method": "crd", "gamma": 1.0, "alpha": 1.0, "beta": 0.8},
    "angular-l": {"method": "kd", "gamma": 0.1, "alpha": 0.9, "beta": 0.0, "angular": _VIEWS},
    "angular-f": {"method": "crd", "gamma": 1.0, "alpha": 0.0, "beta": 0.8, "angular": _VIEWS},
    "angular-fl": {"method": "crd", "gamma": 1.0, "alpha": 1.0, "beta": 0.8, "angular": _VIEWS},
}
"""TeKAP and Angular-KD at the logit level (l), the feature level (f) and both (fl), and what they are built on."""


_IMAGENET_PAIR = ("resnet34", "resnet18")
"""The pair of torchvision's networks that the field compares itself with on ImageNet."""
_IMAGENET: dict[str, Any] = {
    "data": {"name": "imagenet"},
    "epochs": 100,
    "batch_size": 256,
    "optimizer": {"learning_rate": 0.1, "weight_decay": 1e-4, "decay_at": (0.3, 0.6, 0.9)},
}
"""The usual recipe there: the rate falls after 30, 60 and 90 of 100 epochs."""
_IMAGENET_KD = {"gamma": 0.5, "alpha": 0.5, "temperature": 1.0}
_IMAGENET_DKD = {"name": "dkd", "non_target_weight": 0.5, "temperature": 1.0}
"""mdistiller's settings there. Other methods keep those that they have on CIFAR-100."""


@dataclass(frozen=True)
class Preset:
    """A published experiment.

    Attributes:
        way: How it is distilled.
        teacher: The teacher.
        student: The student.
        published: Top-1 in percent, where a table has it.
        on_imagenet: Whether it is one on ImageNet, with torchvision's networks.
    """

    way: str
    teacher: str
    student: str
    published: float | None
    on_imagenet: bool = False

    @property
    def name(self) -> str:
        """What `--preset` takes."""
        return f"{'imagenet/' if self.on_imagenet else ''}{self.way}/{self.teacher}-{self.student}"

    @property
    def table(self) -> dict[str, Any]:
        """The fields of its spec."""
        values = dict(_WAYS.get(self.way, {"method": self.way, "tekap": _NO_TEKAP}))
        pair = (self.teacher, self.student)
        if self.way == "dkd":
            values["method"] = {"name": "dkd", "non_target_weight": _DKD_WEIGHTS.get(pair, 8.0)}
        if self.way == "mlkd" and not self.on_imagenet:
            usual = models.learning_rate(self.student)
            values["optimizer"] = {"learning_rate": _MLKD_RATES.get(usual, usual)}
        if self.on_imagenet:
            networks = {"teacher": f"torchvision:{self.teacher}", "student": f"torchvision:{self.student}"}
            if values["method"] == "kd":
                values |= _IMAGENET_KD
            elif self.way == "dkd":
                values["method"] = _IMAGENET_DKD
            return {"kind": "student", **networks, **_IMAGENET, **values}
        return {"kind": "student", "teacher": self.teacher, "student": self.student, "data": "cifar100", **values}


def presets() -> Iterator[Preset]:
    """All of them: each way with each pair."""
    for way in [*_WAYS, *sorted(set(METHODS.names()) - set(_WAYS))]:
        for (teacher, student), published in PAIRS.items():
            yield Preset(way, teacher, student, published.get(way))
        yield Preset(way, *_IMAGENET_PAIR, 70.41 if way == "kd" else None, on_imagenet=True)


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        UsageError: There is none; the message has the nearest.
    """
    known = {found.name: found for found in presets()}
    if name not in known:
        raise unknown_name("preset", name, list(known))
    return known[name]
