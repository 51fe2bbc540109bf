"""Rungs: fewer candidates for more epochs, up to whole runs; shorter runs keep the shape of their schedule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.experiments.tuning.halving import compressed, ladder, promoted, shortest
from tekapctl.spec import StudentSpec, parse


def spec(**values) -> StudentSpec:
    found = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", **values})
    assert isinstance(found, StudentSpec)
    return found


def test_the_usual_search_costs_about_as_many_epochs_in_each_rung():
    rungs = ladder(27, 240, eta=3, min_epochs=shortest(240, 3), seed=4, seeds=2)
    assert [(rung.candidates, rung.epochs, rung.seeds) for rung in rungs] == [
        (27, 27, (4,)),
        (9, 80, (4,)),
        (3, 240, (4, 5)),
    ]
    assert [rung.runs for rung in rungs] == [28, 10, 8], "with the default settings"


@given(
    candidates=st.integers(1, 300),
    epochs=st.integers(1, 500),
    eta=st.integers(2, 6),
    least=st.integers(1, 500),
    seeds=st.integers(1, 4),
)
def test_rungs_go_from_all_candidates_to_whole_runs(candidates, epochs, eta, least, seeds):
    least = min(least, epochs)
    rungs = ladder(candidates, epochs, eta=eta, min_epochs=least, seed=7, seeds=seeds)
    assert rungs[0].candidates == candidates
    assert rungs[-1].epochs == epochs
    assert [rung.number for rung in rungs] == list(range(1, len(rungs) + 1))
    assert all(rung.epochs >= least and rung.candidates >= 1 for rung in rungs)
    for rung, following in pairwise(rungs):
        assert following.candidates == -(-candidates // eta**rung.number)
        assert rung.epochs < following.epochs
        assert rung.seeds == (7,)
    assert rungs[-1].seeds == tuple(range(7, 7 + seeds))


@given(scores=st.dictionaries(st.integers(0, 30), st.none() | st.floats(0, 1)), count=st.integers(0, 31))
def test_the_best_are_promoted_and_none_without_a_score(scores, count):
    found = promoted(scores, count)
    known = {number: score for number, score in scores.items() if score is not None}
    assert len(found) == min(count, len(known))
    left = [score for number, score in known.items() if number not in found]
    assert all(known[number] >= max(left, default=0.0) for number in found)


def test_of_equal_candidates_the_earlier_is_promoted():
    assert promoted({3: 0.5, 0: 0.5, 2: 0.7, 1: None}, 2) == [2, 0]


@pytest.mark.parametrize(
    "schedule",
    ["step", "linear", {"name": "cosine", "warmup_epochs": 24}, {"name": "one-cycle", "warmup_epochs": 12}],
    ids=str,
)
def test_a_compressed_run_has_the_same_schedule_in_fewer_epochs(schedule):
    whole = spec(epochs=240, schedule=schedule)
    short = compressed(whole, 40)
    assert short.epochs == 40
    for epoch in range(40):
        assert short.rate(epoch) == pytest.approx(whole.rate(6 * epoch))
    assert compressed(whole, 240) == whole


def test_warm_ups_of_methods_and_init_stages_are_shortened_but_not_left_out():
    assert compressed(spec(method="dkd", epochs=240), 24).method.warmup_epochs == 2
    assert compressed(spec(method="ft", epochs=240), 2).init_epochs == 1
    assert compressed(spec(method={"name": "ft", "init_epochs": 0}, epochs=240), 2).init_epochs == 0
