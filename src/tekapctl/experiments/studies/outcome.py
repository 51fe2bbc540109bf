"""What is measured of a study's runs."""

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
        evaluation: What `engine.measure.measure` gave; None where the study asks for nothing.
        macs: Multiply-accumulates of its training; None where the study does not count them.
        macs_before: Those of the training of its teachers, and of theirs, as far as the study trains them.
    """

    finished: Finished
    evaluation: Mapping[str, Any] | None = None
    macs: float | None = None
    macs_before: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A number of each run.

    Attributes:
        name: What it is.
        unit: Its unit; empty where it has none.
        read: Finds it; None where a run has it not.
        higher_is_better: Whether it is good where it is high.
        digits: Decimal places that are shown.
        is_tested: Whether the study's contrasts are looked at in it, and not only the arms.
    """

    name: str
    unit: str
    read: Callable[[Measured], float | None]
    higher_is_better: bool = True
    digits: int = 2
    is_tested: bool = True

    @property
    def title(self) -> str:
        """The name with the unit of the number itself: what differs by points is in percent."""
        unit = "%" if self.unit == "points" else self.unit
        return f"{self.name}, {unit}" if unit else self.name


def of_summary(name: str, unit: str, field: str, scale: float, *, higher_is_better: bool, digits: int) -> Outcome:
    """A number of the evaluation that every run's summary has."""

    def read(measured: Measured) -> float | None:
        found = measured.finished.summary["evaluation"].get(field)
        return None if found is None else scale * float(found)

    return Outcome(name, unit, read, higher_is_better, digits)


def under(name: str, shifts: Collection[str]) -> Outcome:
    """Mean top-1 under shifts of the test images, in percent."""

    def read(measured: Measured) -> float | None:
        assert measured.evaluation is not None
        found = [each["top1"] for each in measured.evaluation["robustness"] if each["shift"] in shifts]
        return 100 * statistics.fmean(found) if found else None

    return Outcome(name, "points", read)


def probed(dataset: str) -> Outcome:
    """Top-1 of a linear probe on another data set, in percent."""

    def read(measured: Measured) -> float | None:
        assert measured.evaluation is not None
        found = [each["top1"] for each in measured.evaluation["transfer"] if each["dataset"] == dataset]
        return 100 * statistics.fmean(found) if found else None

    return Outcome(f"linear probe on {dataset}", "points", read)


TOP1 = Outcome("top-1", "points", lambda measured: 100 * measured.finished.last)
AGREEMENT = of_summary("agreement with the teacher", "points", "agreement", 100.0, higher_is_better=True, digits=2)
DIVERGENCE = of_summary("KL from the teacher", "nats", "kl_from_teacher", 1.0, higher_is_better=False, digits=4)
CORRELATION = of_summary(
    "distance of class correlations", "", "correlation_distance", 1.0, higher_is_better=False, digits=4
)
CALIBRATION = of_summary("calibration error", "points", "calibration_error", 100.0, higher_is_better=False, digits=2)
MACS = Outcome("training", "TMACs", lambda measured: _tera(measured.macs), False, is_tested=False)
MACS_WITH_TEACHERS = Outcome(
    "training with that of teachers",
    "TMACs",
    lambda measured: _tera(measured.macs, measured.macs_before),
    False,
    is_tested=False,
)


def _tera(*macs: float | None) -> float | None:
    known = [each for each in macs if each is not None]
    return sum(known) / 1e12 if len(known) == len(macs) else None
