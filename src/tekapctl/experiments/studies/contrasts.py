"""Outcomes, contrasts between arms computed per seed, and their estimates, tested together."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.groups import Finished
from tekapctl.experiments.comparison.statistics import ALPHA, Difference, holm, paired


@dataclass(frozen=True)
class Measured:
    """A finished run with what was measured of its network afterwards; None is what the study does not need.

    `macs` are the multiply-accumulates of its training, and `teacher_macs` those of training its teachers (and theirs),
    as far as the study trains them.
    """

    finished: Finished
    evaluation: Mapping[str, Any] | None = None
    macs: float | None = None
    teacher_macs: float | None = None


Read = Callable[[Measured], float | None]


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
    read: Read
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


def _of_summary(field: str) -> Read:
    def read(measured: Measured) -> float | None:
        found = measured.finished.summary["evaluation"].get(field)
        return None if found is None else float(found)

    return read


def _mean_top1(key: str, title: str, part: str, name: str, wanted: Collection[str]) -> Outcome:
    def read(measured: Measured) -> float | None:
        assert measured.evaluation is not None
        found = [each["top1"] for each in measured.evaluation[part] if each[name] in wanted]
        return statistics.fmean(found) if found else None

    return Outcome(key, title, "%", read, 100.0)


def under(name: str, shifts: Collection[str]) -> Outcome:
    """Mean top-1 accuracy under shifts of the test images."""
    return _mean_top1(f"top1_{name.lower()}", f"top-1 under {name}", "robustness", "shift", shifts)


def probed(dataset: str) -> Outcome:
    """Top-1 accuracy of a linear probe on another dataset."""
    key = f"linear_probe_{dataset.replace('-', '_')}"
    return _mean_top1(key, f"linear probe on {dataset}", "transfer", "dataset", (dataset,))


def _total_macs(measured: Measured) -> float | None:
    if measured.macs is None or measured.teacher_macs is None:
        return None
    return measured.macs + measured.teacher_macs


TOP1 = Outcome("top1", "top-1", "%", lambda measured: measured.finished.top1, 100.0)
AGREEMENT = Outcome("agreement", "agreement with teacher", "%", _of_summary("agreement"), 100.0)
DIVERGENCE = Outcome("kl_from_teacher", "KL from teacher", "nats", _of_summary("kl_from_teacher"), 1.0, False, 4)
CORRELATION = Outcome(
    "correlation_distance", "class-correlation distance", "", _of_summary("correlation_distance"), 1.0, False, 4
)
CALIBRATION = Outcome("calibration_error", "ECE", "%", _of_summary("calibration_error"), 100.0, False)
MACS = Outcome("macs", "training cost", "TMACs", lambda measured: measured.macs, 1e-12, False, is_tested=False)
MACS_WITH_TEACHERS = Outcome(
    "macs_with_teachers", "training cost with teachers", "TMACs", _total_macs, 1e-12, False, is_tested=False
)

Values = Mapping[str, Mapping[int, float]]
"""An outcome by arm and seed."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms' outcomes, by label, whose weights add up to zero.

    `per` is the unit of a slope, such as `doubling`; empty for a plain difference.
    """

    label: str
    weights: Mapping[str, float]
    per: str = ""

    def of(self, values: Values) -> dict[int, float]:
        """Its value for each seed for which all its arms have a value."""
        arms = [values.get(label, {}) for label in self.weights]
        seeds = sorted(set(arms[0]).intersection(*arms[1:]))
        return {
            seed: math.fsum(weight * values[label][seed] for label, weight in self.weights.items()) for seed in seeds
        }

    def within(self, block: str) -> "Contrast":
        """The same contrast between the arms of a block."""
        weights = {in_block(block, label): weight for label, weight in self.weights.items()}
        return Contrast(self.label, weights, self.per)


def versus(arm: str, other: str, label: str | None = None) -> Contrast:
    """One arm minus another; called "arm vs. other" by default."""
    return mean_of(label or f"{arm} vs. {other}", [(arm, other)])


def mean_of(label: str, pairs: Sequence[tuple[str, str]]) -> Contrast:
    """The mean difference over pairs of arms."""
    weights: dict[str, float] = {}
    for arm, other in pairs:
        weights[arm] = weights.get(arm, 0.0) + 1 / len(pairs)
        weights[other] = weights.get(other, 0.0) - 1 / len(pairs)
    return Contrast(label, weights)


def trend(label: str, arms: Sequence[str], at: Sequence[float | int], minus: Sequence[str] = ()) -> Contrast:
    """The least-squares slope of arms' outcomes for each doubling of a setting.

    The arms' values of the setting are in `at`; the slope of the arms `minus`, with the same values, is subtracted.
    """
    places = [math.log2(value) for value in at]
    middle = sum(places) / len(places)
    square = sum((x - middle) ** 2 for x in places)
    weights: dict[str, float] = {}
    for sign, labels in ((1, arms), (-1, minus)):
        for arm, x in zip(labels, places, strict=bool(labels)):
            weights[arm] = weights.get(arm, 0.0) + sign * (x - middle) / square
    return Contrast(label, weights, "doubling")


@dataclass(frozen=True)
class Estimate:
    """A contrast estimated from runs.

    The difference is a mean over seeds, None if no seed has all arms. Its p-value is Holm-adjusted for all contrasts
    and outcomes of the study; None without one.
    """

    contrast: Contrast
    outcome: Outcome
    difference: Difference | None
    p_holm: float | None

    @property
    def unit(self) -> str:
        """The unit of the difference in tables."""
        per = f"per {self.contrast.per}" if self.contrast.per else ""
        return f"{self.outcome.difference_unit} {per}".strip()

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        found = self.difference
        if found is None:
            return "no seed has all required runs"
        if found.ci_low is None or found.ci_high is None or self.p_holm is None:
            return "too few seeds for a test"
        if self.significant:
            return f"significantly {'better' if (found.mean > 0) == self.outcome.higher_is_better else 'worse'}"
        if found.ci_low > 0 or found.ci_high < 0:
            return "CI excludes 0, but not significant after correction"
        return "not significant"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "contrast": self.contrast.label,
            "per": self.contrast.per or None,
            "outcome": self.outcome.key,
            "difference": None if self.difference is None else asdict(self.difference),
            "p_holm": self.p_holm,
            "significant": self.significant,
            "verdict": self.verdict,
        }


def estimate(outcomes: Sequence[tuple[Outcome, Values]], contrasts: Sequence[Sequence[Contrast]]) -> list[Estimate]:
    """Estimate contrasts, with all p-values adjusted together.

    Each contrast is given within every block; the blocks' values are pooled.
    """
    found: list[tuple[Contrast, Outcome, Difference | None]] = []
    p_values: dict[str, float] = {}
    for outcome, values in outcomes:
        for blocks in contrasts:
            pooled = [value for each in blocks for value in each.of(values).values()]
            difference = paired(pooled, [0.0] * len(pooled)) if pooled else None
            if difference is not None and difference.p_value is not None:
                p_values[str(len(found))] = difference.p_value
            found.append((blocks[0], outcome, difference))
    adjusted = holm(p_values)
    return [Estimate(*each, adjusted.get(str(number))) for number, each in enumerate(found)]


def in_block(block: str, label: str) -> str:
    """The label of an arm within a block."""
    return f"{block}: {label}" if block else label
