"""Means, deviations and paired differences of few numbers, with Student's t."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

_TINY = 1e-300


@dataclass(frozen=True)
class Difference:
    """A mean difference over pairs.

    Attributes:
        pairs: How many pairs.
        mean: Of the differences.
        low: Lower end of the interval; None with fewer than two pairs, or where all differ by the same.
        high: Upper end.
        p: Two-sided probability of such a mean if there were no difference; None where the interval is.
    """

    pairs: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


def paired(one: Sequence[float], other: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """The mean of `one - other` over pairs, with its interval from Student's t of `pairs - 1` degrees of freedom.

    Args:
        one: Numbers.
        other: As many, pair by pair.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ValueError: There are none, or not as many.
    """
    differences = [a - b for a, b in zip(one, other, strict=True)]
    if not differences:
        raise ValueError("no pairs")
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(1, mean, None, None, None)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    freedom = len(differences) - 1
    half = t_quantile(0.5 + confidence / 2, freedom) * error
    if error == 0 and mean != 0:
        # Equal differences of few pairs are a coincidence of round numbers, and no measure of the seeds' noise.
        return Difference(len(differences), mean, None, None, None)
    p = 1.0 if error == 0 else two_sided(mean / error, freedom)
    return Difference(len(differences), mean, mean - half, mean + half, p)


def holm(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Probabilities corrected for their number, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: what stays below 0.05 is beyond chance for
    all comparisons together.
    """
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(probabilities, key=lambda name: probabilities[name])):
        highest = max(highest, min(1.0, (len(probabilities) - rank) * probabilities[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in probabilities}


def two_sided(t: float, freedom: int) -> float:
    """The probability that Student's t is at least so far from zero."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


@cache
def t_quantile(share: float, freedom: int) -> float:
    """The value below which a share, at least a half, of Student's t lies; found by bisection to double precision."""
    low, high = 0.0, 1.0
    while 1 - two_sided(high, freedom) / 2 < share:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided(middle, freedom) / 2 < share else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's evaluation of its continued fraction."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
