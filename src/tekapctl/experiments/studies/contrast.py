"""Differences between arms, found for each seed by itself, and what may be said of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tekapctl.experiments.comparison.intervals import Difference, holm, paired

LEVEL = 0.05
"""The chance of any false word of a difference in a whole study where there is none."""

Values = Mapping[str, Mapping[int, float]]
"""An outcome of each arm's run of each seed."""


@dataclass(frozen=True)
class Contrast:
    """A sum of arms' outcomes with weights that add up to nothing.

    Attributes:
        label: What it tells.
        weights: Of each arm, by its label.
        per: What the difference is counted by, as `doubling`; empty for a plain difference.
    """

    label: str
    weights: Mapping[str, float]
    per: str = ""

    def of(self, values: Values) -> dict[int, float]:
        """Its value for each seed of which all its arms have one."""
        arms = [values.get(label, {}) for label in self.weights]
        seeds = sorted(set(arms[0]).intersection(*arms[1:]))
        return {
            seed: math.fsum(weight * values[label][seed] for label, weight in self.weights.items()) for seed in seeds
        }

    def within(self, block: str) -> "Contrast":
        """The same between the arms of a block."""
        return Contrast(
            self.label, {in_block(block, label): weight for label, weight in self.weights.items()}, self.per
        )


def less(label: str, arm: str, other: str) -> Contrast:
    """One arm less another."""
    return mean_of(label, [(arm, other)])


def mean_of(label: str, pairs: Sequence[tuple[str, str]]) -> Contrast:
    """The mean of one arm less another, over pairs of arms."""
    weights: dict[str, float] = {}
    for arm, other in pairs:
        weights[arm] = weights.get(arm, 0.0) + 1 / len(pairs)
        weights[other] = weights.get(other, 0.0) - 1 / len(pairs)
    return Contrast(label, weights)


def trend(label: str, arms: Sequence[str], at: Sequence[float | int], per: str, less: Sequence[str] = ()) -> Contrast:
    """The slope of the straight line through the arms' outcomes, by least squares.

    Args:
        label: What it tells.
        arms: Their labels.
        at: Where each stands.
        per: One unit of that, in a word.
        less: Arms at the same places whose slope is taken off.
    """
    middle = sum(at) / len(at)
    whole = sum((x - middle) ** 2 for x in at)
    weights = {arm: (x - middle) / whole for arm, x in zip(arms, at, strict=True)}
    for arm, x in zip(less, at, strict=bool(less)):
        weights[arm] = weights.get(arm, 0.0) - (x - middle) / whole
    return Contrast(label, weights, per)


def doublings(values: Sequence[float | int]) -> list[float]:
    """Places on an axis on which each doubling is one step."""
    return [math.log2(value) for value in values]


@dataclass(frozen=True)
class Estimate:
    """What came of a contrast.

    Attributes:
        contrast: Its label.
        outcome: Of which outcome.
        unit: Of the difference.
        difference: Its mean over pairs with its interval; None where no seed has all arms.
        corrected: Its probability by chance, corrected after Holm for all contrasts of the study; None without one.
        higher_is_better: Whether a higher outcome is better.
    """

    contrast: str
    outcome: str
    unit: str
    difference: Difference | None
    corrected: float | None
    higher_is_better: bool

    @property
    def is_beyond_noise(self) -> bool:
        """Whether it is told from the noise of the seeds."""
        return self.corrected is not None and self.corrected < LEVEL

    @property
    def verdict(self) -> str:
        """What may be said of it, in words."""
        found = self.difference
        if found is None:
            return "no seed has all the runs that it needs"
        if found.low is None or found.high is None or self.corrected is None:
            return "too few seeds to say anything of noise"
        if self.is_beyond_noise:
            return f"{'better' if (found.mean > 0) == self.higher_is_better else 'worse'}, beyond seed noise"
        if found.low > 0 or found.high < 0:
            return "its own interval leaves out zero, but among so many differences that may be chance"
        return "not told from zero"


@dataclass(frozen=True)
class Observed:
    """An outcome in which contrasts are looked at.

    Attributes:
        name: What it is.
        unit: Its unit.
        higher_is_better: Whether it is good where it is high.
        values: Of all arms.
    """

    name: str
    unit: str
    higher_is_better: bool
    values: Values


def estimate(outcomes: Sequence[Observed], contrasts: Sequence[Sequence[Contrast]]) -> list[Estimate]:
    """What came of contrasts, with all probabilities corrected together.

    Args:
        outcomes: In which they are looked at.
        contrasts: Each as the contrasts of all blocks, whose values are pooled.
    """
    found: list[tuple[Observed, Contrast, Difference | None]] = []
    for outcome in outcomes:
        for blocks in contrasts:
            pooled = [value for each in blocks for value in each.of(outcome.values).values()]
            found.append((outcome, blocks[0], paired(pooled, [0.0] * len(pooled)) if pooled else None))
    known = {str(number): each.p for number, (*_, each) in enumerate(found) if each is not None and each.p is not None}
    corrected = holm(known)
    return [
        Estimate(
            contrast.label,
            outcome.name,
            f"{outcome.unit} a {contrast.per}".lstrip() if contrast.per else outcome.unit,
            difference,
            corrected.get(str(number)),
            outcome.higher_is_better,
        )
        for number, (outcome, contrast, difference) in enumerate(found)
    ]


def in_block(block: str, label: str) -> str:
    """What an arm of a block is called."""
    return f"{block}: {label}" if block else label
