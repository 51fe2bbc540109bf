"""Contrasts: differences per seed, tested together."""

import math

import numpy as np
import pytest

from tekapctl.experiments.comparison.statistics import holm, paired
from tekapctl.experiments.studies.contrasts import (
    CALIBRATION,
    CORRELATION,
    TOP1,
    Contrast,
    estimate,
    mean_of,
    trend,
    versus,
)

VALUES = {
    "a": {0: 80.0, 1: 81.5, 2: 79.0, 3: 82.0},
    "b": {0: 78.5, 1: 81.0, 2: 78.0, 3: 79.5},
    "c": {0: 78.0, 1: 80.0, 2: 79.5},
}


def estimates(*contrasts: Contrast, values=VALUES, higher=True):
    return estimate([(TOP1 if higher else CALIBRATION, values)], [[each] for each in contrasts])


def test_a_plain_contrast_is_the_paired_difference():
    (found,) = estimates(versus("a", "b"))
    expected = paired([VALUES["a"][seed] for seed in range(4)], [VALUES["b"][seed] for seed in range(4)])
    assert found.difference == expected
    assert found.p_holm == expected.p_value


def test_only_seeds_of_which_all_arms_have_a_run_count():
    (found,) = estimates(versus("a", "c"))
    assert found.difference.pairs == 3


def test_the_mean_over_pairs_is_the_mean_of_their_differences():
    contrast = mean_of("both", [("a", "b"), ("a", "c")])
    of_both = contrast.of(VALUES)
    assert of_both.keys() == {0, 1, 2}
    for seed, value in of_both.items():
        assert value == pytest.approx(VALUES["a"][seed] - (VALUES["b"][seed] + VALUES["c"][seed]) / 2)
    assert sum(contrast.weights.values()) == pytest.approx(0)


def test_a_trend_is_the_slope_of_least_squares():
    places = [1, 3, 8]
    found = trend("slope", ["a", "b", "c"], places).of(VALUES)
    for seed, slope in found.items():
        expected = np.polyfit(np.log2(places), [VALUES[arm][seed] for arm in "abc"], 1)[0]
        assert slope == pytest.approx(expected)


def test_the_trend_of_a_difference_is_the_difference_of_the_trends():
    together = trend("", ["a", "b"], [1, 2], minus=["b", "c"]).of(VALUES)
    one, other = (trend("", arms, [1, 2]).of(VALUES) for arms in (["a", "b"], ["b", "c"]))
    assert together == pytest.approx({seed: one[seed] - other[seed] for seed in (0, 1, 2)})


def test_probabilities_are_corrected_for_all_contrasts_in_all_outcomes():
    contrasts = [versus("a", "b"), versus("b", "c")]
    outcomes = [(TOP1, VALUES), (CORRELATION, VALUES)]
    found = estimate(outcomes, [[each] for each in contrasts])
    expected = holm({str(number): each.difference.p_value for number, each in enumerate(found)})
    assert [each.p_holm for each in found] == list(expected.values())
    assert found[0].p_holm == pytest.approx(min(1.0, 4 * found[0].difference.p_value))


def test_blocks_are_pooled():
    values = {
        f"block {block}: {arm}": {seed: value + block for seed, value in VALUES[arm].items()}
        for block in (1, 2)
        for arm in "ab"
    }
    blocks = [versus("a", "b").within(f"block {block}") for block in (1, 2)]
    (found,) = estimate([(TOP1, values)], [blocks])
    assert found.difference.pairs == 8
    assert found.difference.mean == pytest.approx(estimates(versus("a", "b"))[0].difference.mean)


CLEAR = {"a": {seed: 90 + 0.01 * seed for seed in range(5)}, "b": {seed: 80 - 0.02 * seed for seed in range(5)}}


@pytest.mark.parametrize(
    ("higher", "arms", "word"),
    [(True, "ab", "better"), (True, "ba", "worse"), (False, "ab", "worse")],
)
def test_a_significant_difference_is_better_or_worse(higher, arms, word):
    (found,) = estimates(versus(*arms), values=CLEAR, higher=higher)
    assert found.significant
    assert found.verdict == f"significantly {word}"


def test_an_interval_without_zero_is_not_enough_among_many():
    values = {"a": {0: 1.0, 1: 1.6, 2: 0.9, 3: 1.5}, "b": dict.fromkeys(range(4), 0.2)}
    alone = estimates(versus("a", "b"), values=values)[0]
    assert alone.significant
    zero = [versus("a", "a") for number in range(20)]
    among_many = estimates(versus("a", "b"), *zero, values=values)[0]
    assert not among_many.significant
    assert among_many.verdict == "CI excludes 0, but not significant after correction"


def test_one_seed_is_not_tested():
    (found,) = estimates(versus("a", "b"), values={"a": {0: 9.0}, "b": {0: 1.0}})
    assert not found.significant
    assert found.p_holm is None
    assert "too few seeds" in found.verdict


def test_without_runs_there_is_no_difference():
    (found,) = estimates(versus("a", "nobody"))
    assert found.difference is None
    assert "no seed has all required runs" in found.verdict


def test_where_there_is_nothing_to_find_a_study_seldom_finds_anything():
    """Of studies of eight true zeros one in twenty may name a difference; without the correction one in three would."""
    random = np.random.default_rng(0)
    trials, named = 400, 0
    for _ in range(trials):
        values = {str(arm): dict(enumerate(random.normal(size=5))) for arm in range(16)}
        contrasts = [versus(str(2 * number), str(2 * number + 1)) for number in range(8)]
        named += any(each.significant for each in estimates(*contrasts, values=values))
    assert named / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
