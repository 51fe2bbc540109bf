"""Means over seeds and paired differences with Student's t intervals, and Holm's correction.

Student's t is computed here because importing `scipy.stats` takes 0.7 s of CPU time, more than all of `compare`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

ALPHA = 0.05
"""Significance level, for all differences of a table or study together."""


@dataclass(frozen=True)
class Summary:
    """A value over seeds.

    The sample standard deviation and the half-width of the mean's 95 % confidence interval are None for a single run.
    """

    seeds: int
    mean: float
    std: float | None
    ci_half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary | None":
        """The summary of some values; None if there are none."""
        if not values:
            return None
        if len(values) == 1:
            return cls(1, values[0], None, None)
        std = statistics.stdev(values)
        half = t_quantile(0.975, len(values) - 1) * std / math.sqrt(len(values))
        return cls(len(values), statistics.fmean(values), std, half)


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs.

    Attributes:
        pairs: Number of pairs.
        mean: Mean of the differences.
        ci_low: Lower end of the confidence interval; None for a single pair, or if all pairs differ by the same amount.
        ci_high: Upper end.
        p_value: Two-sided p-value of the paired t-test; None where the interval is.
    """

    pairs: int
    mean: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None


def paired(one: Sequence[float], other: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """The mean of `one - other` over pairs, with its Student's t interval at a confidence level between 0 and 1.

    Raises:
        ValueError: The sequences are empty or differ in length.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    if not differences:
        raise ValueError("no pairs")
    count, mean = len(differences), statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else 0.0
    if max(differences) - min(differences) < 1e-12:  # rounding errors of equal differences are not noise either
        error = 0.0
    if count == 1 or (error == 0 and abs(mean) > 1e-12):
        # Equal differences of a few pairs are a coincidence of rounded accuracies, not a measure of seed noise.
        return Difference(count, mean, None, None, None)
    half = t_quantile(0.5 + confidence / 2, count - 1) * error
    p = 1.0 if error == 0 else two_sided(mean / error, count - 1)
    return Difference(count, mean, mean - half, mean + half, p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number, in the given order.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def two_sided(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's t with a whole number of degrees of freedom.

    The finite series of Abramowitz and Stegun, "Handbook of Mathematical Functions", equations 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if odd:
        inside = 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    else:
        inside = math.sin(angle) * total
    return min(1.0, max(0.0, 1 - inside))


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a probability of at least one half, by bisection."""
    low, high = 0.0, 1.0
    while 1 - two_sided(high, freedom) / 2 < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided(middle, freedom) / 2 < probability else (low, middle)
    return (low + high) / 2
