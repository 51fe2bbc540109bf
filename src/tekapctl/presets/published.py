"""Published accuracies with their settings and sources, from `published.json`."""

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Dataset = Literal["cifar100", "imagenet"]
Epoch = Literal["last", "best", "not stated"]


@dataclass(frozen=True)
class Published:
    """What a paper or its code states of a method on a pair of networks.

    Attributes:
        way: How it is distilled: a method, or one of the ways of `tekapctl.presets.preset`.
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
    text = (files("tekapctl.presets") / "published.json").read_text(encoding="utf-8")
    rows = [Published(**row) for row in json.loads(text)]
    return {(row.way, row.dataset, row.teacher, row.student): row for row in rows}
