"""Comparisons of runs: intervals are Student's, corrections Holm's, and groups differ in what their specs say."""

import csv
import io
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Finished, baseline_of, group
from tekapctl.experiments.comparison.intervals import holm, incomplete_beta, paired, t_quantile, two_sided
from tekapctl.experiments.comparison.table import cells, comma_separated, compare, latex, markdown
from tekapctl.spec import parse
from tekapctl.store.runs import Run

NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799), (100_000, 1.9600)],
)
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-5)


@given(st.floats(0.01, 50), st.integers(1, 400))
def test_the_quantile_undoes_the_probability(t, freedom):
    share = 1 - two_sided(t, freedom) / 2
    if share < 1 - 1e-9:
        assert t_quantile(share, freedom) == pytest.approx(t, rel=1e-4)


@given(st.floats(0.1, 30), st.floats(0.1, 30), st.integers(0, 1024).map(lambda n: n / 1024))  # 1 - x is exact
def test_the_incomplete_beta_function_is_symmetric_and_grows(a, b, x):
    assert incomplete_beta(a, b, x) + incomplete_beta(b, a, 1 - x) == pytest.approx(1, abs=1e-9)
    assert incomplete_beta(1.0, b, x) == pytest.approx(1 - (1 - x) ** b, abs=1e-9)


def test_a_paired_difference_has_its_interval_and_probability():
    found = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    half = 4.3027 * statistics.stdev([2, 3, 1]) / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-3)
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    assert paired([1.0], [0.5]).p is None
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1.0
    alike = paired([2.0, 3.0], [1.0, 2.0])
    assert (alike.mean, alike.low, alike.p) == (1.0, None, None)
    with pytest.raises(ValueError, match="no pairs"):
        paired([], [])


def test_groups_of_one_name_are_told_apart_by_their_teachers_weights():
    shared = {"student": "resnet8", "method": "kd", "tekap": NO_TEKAP, "teacher": "teacher.pth"}
    table = {"evaluation": {}, "last_top1": 0.5, "best_top1": 0.5}
    runs = [
        Finished(Run(Path(f"run{number}")), parse({**shared, "teacher_digest": digit * 64}), table)
        for number, digit in enumerate("ab")
    ]
    assert [each.label for each in group(runs)] == ["kd, teacher aaaaaaaa", "kd, teacher bbbbbbbb"]


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1))
def test_corrected_probabilities_are_no_smaller_and_keep_their_order(probabilities):
    corrected = holm(probabilities)
    assert list(corrected) == list(probabilities)
    assert all(1 >= corrected[name] >= p for name, p in probabilities.items())
    ranked = sorted(probabilities, key=lambda name: probabilities[name])
    assert [corrected[name] for name in ranked] == sorted(corrected.values())


def test_holms_example():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def finished(tmp_path, number: int, top1: float, **values) -> Finished:
    summary = {
        "last_top1": top1,
        "best_top1": top1,
        "seconds": 10.0,
        "evaluation": {"parameters": 77_754, "agreement": None},
    }
    return Finished(Run(tmp_path / f"{number:03}"), parse({"data": "digits", **values}), summary)


@pytest.fixture
def runs(tmp_path):
    made = []
    for seed, noise in enumerate((0.0, 0.01, 0.005)):
        arms = (
            (0.80, {"kind": "teacher", "model": "resnet8"}),
            (0.90, {"student": "resnet8", "tekap": NO_TEKAP}),
            (0.91, {"student": "resnet8"}),
            (0.85, {"student": "resnet8", "tekap": NO_TEKAP, "alpha": 3.06}),
        )
        for number, (top1, values) in enumerate(arms):
            moved = top1 + (noise if number else 0.8 * noise)  # equal differences would leave nothing to test
            made.append(finished(tmp_path, 10 * seed + number, moved, seed=seed, name="a", **values))
    return made


def test_runs_that_differ_in_their_seed_are_a_group_named_by_what_sets_it_apart(runs):
    groups = group(reversed(runs))
    assert [each.label for each in groups] == ["alone", "kd, alpha 0.9", "kd + TeKAP", "kd, alpha 3.06"]
    assert [sorted(each.runs) for each in groups] == [[0, 1, 2]] * 4
    assert baseline_of(groups).label == "alone"
    assert baseline_of(groups, runs[1].run.id).label == "kd, alpha 0.9"
    with pytest.raises(UsageError, match="no group 'dk'"):
        baseline_of(groups, "dk")
    with pytest.raises(UsageError, match="2 groups are called 'KD'"):
        baseline_of(groups, "KD")
    assert baseline_of([each for each in groups if "3.06" not in each.label], "KD").label == "kd, alpha 0.9"
    assert baseline_of(groups, "KD + tekap").label == "kd + TeKAP"


@pytest.mark.parametrize("others", [{"fingerprint": "b" * 64}, {"split_seed": 1}, {"test_share": 0.5}])
def test_runs_on_other_images_are_not_tested_against_each_other(tmp_path, others):
    made = []
    for number, more in enumerate(({}, others)):
        data = {"name": "folder", "folder": "pictures", "fingerprint": "a" * 64, **more}
        for seed in range(3):
            top1 = 0.5 + 0.1 * number + 0.01 * seed * seed
            made.append(
                finished(tmp_path, 10 * number + seed, top1, kind="teacher", model="resnet8", data=data, seed=seed)
            )
    one, other = group(made)
    assert len({one.label, other.label}) == 2
    rows = compare([one, other], one)
    assert [row.difference for row in rows] == [None, None]
    assert [row.corrected for row in rows] == [None, None]


def test_of_two_runs_of_one_seed_the_newer_counts(runs, tmp_path):
    again = replace(runs[0], run=Run(tmp_path / "999"), summary={**runs[0].summary, "last_top1": 0.5})
    assert group([again, *runs])[0].runs[0].last == 0.5


def test_networks_and_data_sets_are_named_where_they_differ(runs, tmp_path):
    other = finished(tmp_path, 500, 0.7, student="vgg8", tekap=NO_TEKAP)
    assert "vgg8: kd" in [each.label for each in group([*runs, other])]


def test_the_table_has_means_deviations_and_differences_in_points(runs):
    groups = group(runs)
    rows = compare(groups, groups[0])
    assert rows[0].difference is None
    assert rows[1].last == pytest.approx(90.5)
    assert rows[1].deviation == pytest.approx(0.5)
    assert rows[1].difference.mean == pytest.approx(10.1)
    assert rows[1].corrected < 0.05
    lone = compare(group(runs[:2]), group(runs[:1])[0])
    assert lone[1].difference.p is None


def test_the_table_is_written_for_people_and_programs(runs):
    groups = group(runs)
    table = cells(compare(groups, groups[0]), groups[0].label)
    for_programs = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert [int(row["parameters"]) for row in for_programs] == [
        each.first.summary["evaluation"]["parameters"] for each in groups
    ]
    assert [list(row.values())[:6] for row in for_programs] == [row[:6] for row in table[1:]]
    assert markdown(table).count("\n") == len(groups) + 2
    assert "kd + TeKAP" in markdown(table)
    written = latex(table)
    assert r"last \%" in written
    assert written.count(r"\\") == len(groups) + 1
