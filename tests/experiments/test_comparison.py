"""Comparisons of runs: intervals are Student's, corrections Holm's, and groups differ in what their specs say."""

import csv
import io
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Finished, baseline_of, different_hardware, group
from tekapctl.experiments.comparison.statistics import Difference, Summary, holm, paired, t_quantile, two_sided
from tekapctl.experiments.comparison.table import (
    cells,
    comma_separated,
    compare,
    difference_cells,
    latex,
    markdown,
    p_text,
)
from tekapctl.experiments.identity import experiment
from tekapctl.spec import parse
from tekapctl.store.run import Run

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


@given(st.floats(-50, 50), st.integers(1, 400))
def test_p_values_are_those_of_scipy(t, freedom):
    assert two_sided(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom), abs=1e-9)


def test_a_summary_has_the_students_t_interval_of_the_mean():
    found = Summary.of([3.0, 5.0, 4.0])
    assert (found.seeds, found.mean, found.std) == (3, 4.0, 1.0)
    assert found.ci_half_width == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert Summary.of([3.0]) == Summary(1, 3.0, None, None)
    assert Summary.of([]) is None


def test_a_paired_difference_has_its_interval_and_probability():
    found = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    half = 4.3027 * statistics.stdev([2, 3, 1]) / 3**0.5
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-3)
    assert found.p_value == pytest.approx(0.0742, abs=1e-4)
    assert paired([1.0], [0.5]).p_value is None
    assert paired([1.0, 2.0], [1.0, 2.0]).p_value == 1.0
    alike = paired([2.0, 3.0], [1.0, 2.0])
    assert (alike.mean, alike.ci_low, alike.p_value) == (1.0, None, None)
    assert paired([0.30, 0.40, 0.50], [0.20, 0.30, 0.40]).p_value is None, "equal but for rounding"
    with pytest.raises(ValueError, match="no pairs"):
        paired([], [])


def test_labels_name_augmentations_with_what_is_not_their_default(tmp_path):
    data = {"name": "digits"}
    augment = ["randaugment", {"name": "mixup", "alpha": 0.3}]
    more = {"unlabelled": "/images", "unlabelled_fingerprint": "0123456789abcdef" * 4}
    arms = [data, {**data, "augment": augment}, {**data, **more}]
    found = [finished(tmp_path, number, 0.5, data=each) for number, each in enumerate(arms)]
    assert [each.label for each in group(found)] == [
        "kd + TeKAP, data.augment none, no unlabelled images",
        "kd + TeKAP, data.augment randaugment + mixup(alpha=0.3), no unlabelled images",
        "kd + TeKAP, data.augment none, unlabelled images 01234567",
    ]


def test_labels_name_an_optimizer_without_the_fields_that_it_has_by_itself(tmp_path):
    arms = [{}, {"optimizer": "adamw"}, {"optimizer": {"name": "adamw", "weight_decay": 0.2}}]
    found = [finished(tmp_path, number, 0.5, **each) for number, each in enumerate(arms)]
    assert [each.label for each in group(found)] == [
        "kd + TeKAP, optimizer sgd, optimizer.weight_decay 0.0005",
        "kd + TeKAP, optimizer adamw, optimizer.weight_decay 0.05",
        "kd + TeKAP, optimizer adamw, optimizer.weight_decay 0.2",
    ]


def test_labels_name_teachers_by_their_short_ids(tmp_path):
    teachers = ("20261126-223610-teacher-resnet8-digits-s0-a16d", "20261126-223611-teacher-resnet8-digits-s1-8504")
    found = [finished(tmp_path, number, 0.5, teacher=name) for number, name in enumerate(teachers)]
    assert [each.label for each in group(found)] == ["kd + TeKAP, teacher a16d", "kd + TeKAP, teacher 8504"]


def test_groups_of_one_name_are_told_apart_by_their_teachers_weights():
    shared = {"student": "resnet8", "method": "kd", "tekap": NO_TEKAP, "teacher": "teacher.pth"}
    table = {"evaluation": {}, "last_top1": 0.5, "best_top1": 0.5}
    runs = [
        Finished(Run(Path(f"run{number}")), parse({**shared, "teacher_digest": digit * 64}), table)
        for number, digit in enumerate("ab")
    ]
    assert [each.label for each in group(runs)] == ["kd, teacher aaaaaaaa", "kd, teacher bbbbbbbb"]


def test_runs_that_were_trained_longer_are_a_group_of_their_own(tmp_path):
    runs = ("20261126-223610-kd-resnet8-digits-s0-a16d", "20261126-223611-kd-resnet8-digits-s1-8504")
    found = [
        finished(tmp_path, seed, 0.5, epochs=20, seed=seed, continues={"run": run, "epochs": [10]})
        for seed, run in enumerate(runs)
    ]
    found.append(finished(tmp_path, 2, 0.5, epochs=20, continues={"run": runs[0], "epochs": [5, 10]}))
    found.append(finished(tmp_path, 3, 0.5, epochs=20))
    assert [(each.label, sorted(each.runs)) for each in group(found)] == [
        ("kd + TeKAP, continued after 10 epochs", [0, 1]),
        ("kd + TeKAP, continued after 5 and 10 epochs", [0]),
        ("kd + TeKAP, in one go", [0]),
    ]
    assert experiment(found[0].spec) == experiment(found[1].spec) != experiment(found[3].spec)


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
    assert [each.label for each in groups] == ["no distillation", "kd, alpha 0.9", "kd + TeKAP", "kd, alpha 3.06"]
    assert [sorted(each.runs) for each in groups] == [[0, 1, 2]] * 4
    assert baseline_of(groups).label == "no distillation"
    assert baseline_of(groups, runs[1].run.id).label == "kd, alpha 0.9"
    with pytest.raises(UsageError, match="no group 'dk'"):
        baseline_of(groups, "dk")
    with pytest.raises(UsageError, match="2 groups match 'KD'"):
        baseline_of(groups, "KD")
    assert baseline_of([each for each in groups if "3.06" not in each.label], "KD").label == "kd, alpha 0.9"
    assert baseline_of(groups, "KD + tekap").label == "kd + TeKAP"


@pytest.mark.parametrize("others", [{"fingerprint": "b" * 64}, {"split_seed": 1}, {"test_fraction": 0.5}])
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
    assert [row.p_holm for row in rows] == [None, None]


def test_of_two_runs_of_one_seed_the_newer_counts(runs, tmp_path):
    again = replace(runs[0], run=Run(tmp_path / "999"), summary={**runs[0].summary, "last_top1": 0.5})
    assert group([again, *runs])[0].runs[0].top1 == 0.5


def test_networks_and_data_sets_are_named_where_they_differ(runs, tmp_path):
    other = finished(tmp_path, 500, 0.7, student="vgg8", tekap=NO_TEKAP)
    assert "vgg8: kd" in [each.label for each in group([*runs, other])]


def test_the_table_has_means_deviations_and_differences_as_fractions(runs):
    groups = group(runs)
    rows = compare(groups, groups[0])
    assert rows[0].difference is None
    assert rows[1].top1.mean == pytest.approx(0.905)
    assert rows[1].top1.std == pytest.approx(0.005)
    assert rows[1].difference.mean == pytest.approx(0.101)
    assert rows[1].p_holm < 0.05
    lone = compare(group(runs[:2]), group(runs[:1])[0])
    assert lone[1].difference.p_value is None


def test_the_table_is_written_for_people_and_programs(runs):
    groups = group(runs)
    table = cells(compare(groups, groups[0]), groups[0].label)
    assert table[1][:4] == ["no distillation", "3", "80.40", "0.40"]
    for_programs = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert [int(row["parameters"]) for row in for_programs] == [
        each.first.summary["evaluation"]["parameters"] for each in groups
    ]
    assert [list(row.values())[:6] for row in for_programs] == [row[:6] for row in table[1:]]
    assert markdown(table).count("\n") == len(groups) + 2
    assert "kd + TeKAP" in markdown(table)
    written = latex(table)
    assert r"top-1 (\%)" in written
    assert r"$\Delta$ vs. no distillation" in written
    assert written.count(r"\\") == len(groups) + 1


@pytest.mark.parametrize(("p", "text"), [(None, ""), (1.0, "1.000"), (0.0004, "< 0.001"), (0.0006, "0.001")])
def test_a_p_value_is_never_shown_as_zero(p, text):
    assert p_text(p) == text


def test_nothing_is_shown_as_minus_zero():
    assert difference_cells(Difference(1, -0.00001, None, None, None), 1.0) == ("+0.00", "")
    assert difference_cells(Difference(2, -0.126, -0.2, 0.1, 0.5), 100.0, 1) == ("-12.6", "-20.0 to +10.0")


def test_runs_on_different_hardware_or_in_different_precisions_are_said_to_be(tmp_path):
    def finished(name: str, **made: str) -> Finished:
        (tmp_path / name).mkdir()
        (tmp_path / name / "environment.json").write_text(json.dumps(made))
        return Finished(Run(tmp_path / name), parse({}), {})

    cpu = [finished(f"{n}", device=f"cpu, {n} thread{'s' * (n > 1)}, AVX512", precision="bfloat16") for n in (1, 2)]
    assert different_hardware(cpu) is None
    gpu = finished("gpu", device="NVIDIA H100", precision="bfloat16")
    exact = finished("exact", device="cpu, 1 thread, AVX512", precision="float32")
    assert "bfloat16 on cpu, AVX512 (2 runs); bfloat16 on NVIDIA H100 (1 run)" in str(different_hardware([*cpu, gpu]))
    assert "float32 on cpu, AVX512 (1 run)" in str(different_hardware([*cpu, exact]))
