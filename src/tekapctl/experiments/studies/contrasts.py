"""Contrasts between arms, computed per seed and tested together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.statistics import ALPHA, Difference, holm, paired
from tekapctl.experiments.studies.outcomes import Outcome

Values = Mapping[str, Mapping[int, float]]
"""An outcome by arm and seed."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms' outcomes whose weights add up to zero.

    Attributes:
        label: What it compares.
        weights: Weight of each arm, by label.
        per: Unit of a slope, such as `doubling`; empty for a plain difference.
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
        return Contrast(
            self.label, {in_block(block, label): weight for label, weight in self.weights.items()}, self.per
        )


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

    Args:
        label: What it compares.
        arms: Labels of the arms.
        at: The setting's value for each arm.
        minus: Arms with the same values whose slope is subtracted.
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

    Attributes:
        contrast: The contrast.
        outcome: The outcome.
        difference: Mean over seeds; None if no seed has all arms.
        p_holm: p-value, Holm-adjusted for all contrasts and outcomes of the study; None without one.
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

    Args:
        outcomes: Outcomes with their values.
        contrasts: Each contrast within every block; the blocks' values are pooled.
    """
    found: list[tuple[Contrast, Outcome, Difference | None]] = []
    for outcome, values in outcomes:
        for blocks in contrasts:
            pooled = [value for each in blocks for value in each.of(values).values()]
            found.append((blocks[0], outcome, paired(pooled, [0.0] * len(pooled)) if pooled else None))
    p_values = {
        str(number): each.p_value
        for number, (*_, each) in enumerate(found)
        if each is not None and each.p_value is not None
    }
    adjusted = holm(p_values)
    return [Estimate(*each, adjusted.get(str(number))) for number, each in enumerate(found)]


def in_block(block: str, label: str) -> str:
    """The label of an arm within a block."""
    return f"{block}: {label}" if block else label
