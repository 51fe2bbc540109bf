"""The result of a study: means over seeds, differences from the right arm, and conclusions."""

import pytest

from tekapctl.experiments.comparison.groups import Finished
from tekapctl.experiments.studies import planning
from tekapctl.experiments.studies.contrasts import Measured
from tekapctl.experiments.studies.result import Result, arm_cells, contrast_cells, result
from tekapctl.report.page import opening
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.run import Run


def outcome_of(home: Home, name: str, top1, seeds: int = 3, macs: float | None = None, **settings) -> Result:
    """The result of a study whose runs have reached what `top1(arm, seed)` says."""
    spec = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 2})
    planned = planning.plan(name, spec, home, seeds=seeds, settings=settings, is_dry=True)

    def measured(group: str, seed: int) -> Measured:
        evaluation = {"calibration_error": 0.05, "agreement": 0.9}
        summary = {"last_top1": top1(group, seed), "best_top1": 1.0, "evaluation": evaluation}
        return Measured(Finished(Run(home.runs / group), spec, summary), macs=macs, teacher_macs=macs)

    runs = {group: {seed: measured(group, seed) for seed in range(seeds)} for group in planned.groups.values()}
    return result(planned, runs, len(runs) * seeds)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def noisy(arm: str, seed: int) -> float:
    return (90 if "TeKAP" in arm else 80 if arm.startswith("KD") else 70) / 100 + (seed + len(arm)) % 3 / 1000


def test_arms_along_an_axis_are_compared_with_the_first_at_the_same_place(home):
    found = outcome_of(home, "few-shot", noisy, fractions=[0.1, 1.0])
    head, *rows = arm_cells(found, 0)
    assert head[4] == "Δ vs. KD"
    differences = {row[0]: row[4] for row in rows}
    for at in ("0.1", "1"):
        assert differences[f"KD, fraction {at}"] == ""
        assert float(differences[f"KD + TeKAP, fraction {at}"]) == pytest.approx(10, abs=0.3)
        assert float(differences[f"no distillation, fraction {at}"]) == pytest.approx(-10, abs=0.3)


def test_what_is_counted_has_no_interval_and_no_verdict(home):
    found = outcome_of(home, "cost", noisy, macs=2e12)
    names = [outcome.name for outcome in found.outcomes]
    alone, with_teachers = (
        arm_cells(found, names.index(name)) for name in ("training cost", "training cost with teachers")
    )
    assert alone[0] == ["arm", "seeds", "training cost (TMACs)", "Δ vs. KD"]
    assert {row[2] for row in alone[1:]} == {"2.00"}
    assert {row[2] for row in with_teachers[1:]} == {"4.00"}
    assert {row[0] for row in contrast_cells(found)[1:]} == {"top-1", "ECE"}


def test_the_conclusions_end_with_the_number_of_significant_differences(home):
    found = outcome_of(home, "controls", noisy, seeds=5)
    significant = sum(each.significant for each in found.estimates)
    assert significant
    assert len(found.conclusions) == len(found.estimates) + 1
    assert found.conclusions[0].startswith("TeKAP vs. KD: +10.")
    assert found.conclusions[-1].startswith(f"Of {len(found.estimates)} differences, {significant} ")


def test_one_seed_and_no_run_at_all_are_shown_without_tests(home):
    found = outcome_of(home, "controls", noisy, seeds=1)
    assert found.conclusions[-1] == "Too few seeds for significance tests."
    assert "±" not in opening(found)
    planned = planning.plan("few-shot", parse({"data": "digits", "epochs": 1}), home, is_dry=True)
    nothing = result(planned, {}, 0)
    assert nothing.conclusions == ["Too few seeds for significance tests."]
    assert all(row[1:] == [""] * 5 for row in arm_cells(nothing, 0)[1:])
    assert "0 of" in opening(nothing)


def test_the_page_names_everything_once_and_escapes_it(home):
    text = opening(outcome_of(home, "teachers", noisy, counts=[1, 3]))
    assert text.count("How many augmented teachers should there be") == 2, "the heading, and the chart's own name"
    assert "<polyline" in text
    assert text.count("<li>") == 5 + 1 + 3, "contrasts, their summary, and the chart's three lines"


def test_json_has_fractions_and_stable_keys(home):
    found = outcome_of(home, "agreement", noisy, seeds=3).to_dict()
    tekap = found["arms"][1]
    assert (tekap["arm"], tekap["compared_with"]) == ("KD + TeKAP", "KD")
    assert list(tekap["outcomes"]) == [
        "top1",
        "agreement",
        "kl_from_teacher",
        "correlation_distance",
        "calibration_error",
    ]
    assert 0 < tekap["outcomes"]["top1"]["mean"] < 1
    assert tekap["outcomes"]["top1"]["difference"]["mean"] == pytest.approx(0.1, abs=0.01)
    assert tekap["outcomes"]["kl_from_teacher"] is None
    assert found["contrasts"][0].keys() == {
        *("contrast", "per", "outcome", "difference", "p_holm", "significant", "verdict"),
    }
