"""Contrasts: differences found for each seed by itself, and what may be said of them."""

import math

import numpy as np
import pytest

from tekapctl.experiments.comparison.intervals import holm, paired
from tekapctl.experiments.studies.contrast import Contrast, Observed, doublings, estimate, less, mean_of, trend

VALUES = {
    "a": {0: 80.0, 1: 81.5, 2: 79.0, 3: 82.0},
    "b": {0: 78.5, 1: 81.0, 2: 78.0, 3: 79.5},
    "c": {0: 78.0, 1: 80.0, 2: 79.5},
}


def estimates(*contrasts: Contrast, values=VALUES, higher=True):
    return estimate([Observed("top-1", "points", higher, values)], [[each] for each in contrasts])


def test_a_plain_contrast_is_the_paired_difference():
    (found,) = estimates(less("a less b", "a", "b"))
    expected = paired([VALUES["a"][seed] for seed in range(4)], [VALUES["b"][seed] for seed in range(4)])
    assert found.difference == expected
    assert found.corrected == expected.p


def test_only_seeds_of_which_all_arms_have_a_run_count():
    (found,) = estimates(less("a less c", "a", "c"))
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
    found = trend("slope", ["a", "b", "c"], doublings(places), "doubling").of(VALUES)
    for seed, slope in found.items():
        expected = np.polyfit(np.log2(places), [VALUES[arm][seed] for arm in "abc"], 1)[0]
        assert slope == pytest.approx(expected)


def test_the_trend_of_a_difference_is_the_difference_of_the_trends():
    together = trend("", ["a", "b"], [0, 1], "step", less=["b", "c"]).of(VALUES)
    one, other = (trend("", arms, [0, 1], "step").of(VALUES) for arms in (["a", "b"], ["b", "c"]))
    assert together == pytest.approx({seed: one[seed] - other[seed] for seed in (0, 1, 2)})


def test_probabilities_are_corrected_for_all_contrasts_in_all_outcomes():
    contrasts = [less("a less b", "a", "b"), less("b less c", "b", "c")]
    outcomes = [Observed("top-1", "points", True, VALUES), Observed("distance", "", False, VALUES)]
    found = estimate(outcomes, [[each] for each in contrasts])
    expected = holm({str(number): each.difference.p for number, each in enumerate(found)})
    assert [each.corrected for each in found] == list(expected.values())
    assert found[0].corrected == pytest.approx(min(1.0, 4 * found[0].difference.p))


def test_blocks_are_pooled():
    values = {
        f"block {block}: {arm}": {seed: value + block for seed, value in VALUES[arm].items()}
        for block in (1, 2)
        for arm in "ab"
    }
    blocks = [less("a less b", "a", "b").within(f"block {block}") for block in (1, 2)]
    (found,) = estimate([Observed("top-1", "points", True, values)], [blocks])
    assert found.difference.pairs == 8
    assert found.difference.mean == pytest.approx(estimates(less("", "a", "b"))[0].difference.mean)


CLEAR = {"a": {seed: 90 + 0.01 * seed for seed in range(5)}, "b": {seed: 80 - 0.02 * seed for seed in range(5)}}


@pytest.mark.parametrize(
    ("higher", "arms", "word"),
    [(True, "ab", "better"), (True, "ba", "worse"), (False, "ab", "worse")],
)
def test_what_is_beyond_noise_is_better_or_worse(higher, arms, word):
    (found,) = estimates(less("", *arms), values=CLEAR, higher=higher)
    assert found.is_beyond_noise
    assert found.verdict == f"{word}, beyond seed noise"


def test_an_interval_without_zero_is_not_enough_among_many():
    values = {"a": {0: 1.0, 1: 1.6, 2: 0.9, 3: 1.5}, "b": dict.fromkeys(range(4), 0.2)}
    alone = estimates(less("", "a", "b"), values=values)[0]
    assert alone.is_beyond_noise
    zero = [less(str(number), "a", "a") for number in range(20)]
    among_many = estimates(less("", "a", "b"), *zero, values=values)[0]
    assert not among_many.is_beyond_noise
    assert "may be chance" in among_many.verdict


def test_one_seed_says_nothing_of_noise():
    (found,) = estimates(less("", "a", "b"), values={"a": {0: 9.0}, "b": {0: 1.0}})
    assert not found.is_beyond_noise
    assert found.corrected is None
    assert "too few seeds" in found.verdict


def test_without_runs_there_is_no_difference():
    (found,) = estimates(less("", "a", "nobody"))
    assert found.difference is None
    assert "no seed has all the runs" in found.verdict


def test_where_there_is_nothing_to_find_a_study_seldom_finds_anything():
    """Of studies of eight true zeros one in twenty may name a difference; without the correction one in three would."""
    random = np.random.default_rng(0)
    trials, named = 400, 0
    for _ in range(trials):
        values = {str(arm): dict(enumerate(random.normal(size=5))) for arm in range(16)}
        contrasts = [less(str(number), str(2 * number), str(2 * number + 1)) for number in range(8)]
        named += any(each.is_beyond_noise for each in estimates(*contrasts, values=values))
    assert named / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
