"""What a study reads from each finished run."""

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.experiments.comparison.groups import Finished


@dataclass(frozen=True)
class Measured:
    """A finished run with what was measured of its network afterwards.

    Attributes:
        finished: The run.
        evaluation: Robustness and transfer measurements; None if the study needs none.
        macs: Multiply-accumulates of its training; None if the study does not count them.
        teacher_macs: Multiply-accumulates of training its teachers (and theirs), as far as the study trains them.
    """

    finished: Finished
    evaluation: Mapping[str, Any] | None = None
    macs: float | None = None
    teacher_macs: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A number that is read from each run.

    Attributes:
        key: Its name in JSON.
        name: Its name in tables.
        unit: The unit in tables; empty without one.
        read: Reads it; None if the run has no such value.
        scale: Factor from the value to its unit in tables: 100 for percent.
        higher_is_better: Whether larger values are better.
        digits: Decimal places in tables.
        is_tested: Whether the study's contrasts are tested on it.
    """

    key: str
    name: str
    unit: str
    read: Callable[[Measured], float | None]
    scale: float = 1.0
    higher_is_better: bool = True
    digits: int = 2
    is_tested: bool = True

    @property
    def title(self) -> str:
        """The name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def difference_unit(self) -> str:
        """The unit of a difference in tables."""
        return "points" if self.unit == "%" else self.unit


def _percent(key: str, name: str, read: Callable[[Measured], float | None], *, higher: bool = True) -> Outcome:
    return Outcome(key, name, "%", read, 100.0, higher)


def _of_summary(field: str) -> Callable[[Measured], float | None]:
    def read(measured: Measured) -> float | None:
        found = measured.finished.summary["evaluation"].get(field)
        return None if found is None else float(found)

    return read


def _mean_top1(part: str, name: str, wanted: Collection[str]) -> Callable[[Measured], float | None]:
    def read(measured: Measured) -> float | None:
        assert measured.evaluation is not None
        found = [each["top1"] for each in measured.evaluation[part] if each[name] in wanted]
        return statistics.fmean(found) if found else None

    return read


def under(name: str, shifts: Collection[str]) -> Outcome:
    """Mean top-1 accuracy under shifts of the test images."""
    return _percent(f"top1_{name.lower()}", f"top-1 under {name}", _mean_top1("robustness", "shift", shifts))


def probed(dataset: str) -> Outcome:
    """Top-1 accuracy of a linear probe on another data set."""
    key = f"linear_probe_{dataset.replace('-', '_')}"
    return _percent(key, f"linear probe on {dataset}", _mean_top1("transfer", "dataset", (dataset,)))


def _total_macs(measured: Measured) -> float | None:
    known = [each for each in (measured.macs, measured.teacher_macs) if each is not None]
    return sum(known) if len(known) == 2 else None


TOP1 = _percent("top1", "top-1", lambda measured: measured.finished.top1)
AGREEMENT = _percent("agreement", "agreement with teacher", _of_summary("agreement"))
DIVERGENCE = Outcome(
    "kl_from_teacher", "KL from teacher", "nats", _of_summary("kl_from_teacher"), higher_is_better=False, digits=4
)
CORRELATION = Outcome(
    *("correlation_distance", "class-correlation distance", "", _of_summary("correlation_distance")),
    higher_is_better=False,
    digits=4,
)
CALIBRATION = _percent("calibration_error", "ECE", _of_summary("calibration_error"), higher=False)
MACS = Outcome("macs", "training cost", "TMACs", lambda measured: measured.macs, 1e-12, False, is_tested=False)
MACS_WITH_TEACHERS = Outcome(
    "macs_with_teachers", "training cost with teachers", "TMACs", _total_macs, 1e-12, False, is_tested=False
)
