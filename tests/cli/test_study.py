"""Studies as a user carries them out, looks at them and repeats them."""

import signal

import pytest

from cli.conftest import Program
from helpers.program import start

SETTING = [
    *("--dataset", "digits", "--train-fraction", "0.1", "--teacher", "resnet14", "--teacher-epochs", "2"),
    *("--student", "resnet8", "--epochs", "1", "--batch-size", "16", "--seeds", "2", "--device", "cpu"),
]
SMALL = [
    "--set",
    "study.limit=40",
    "--set",
    "study.severities=[1]",
    "--set",
    "study.epsilons=[0.03]",
    "--set",
    "study.occlusions=[0.2]",
]


@pytest.fixture(scope="module")
def tekapctl(tmp_path_factory) -> Program:
    return Program(tmp_path_factory.mktemp("studies") / "home")


@pytest.fixture(scope="module")
def agreement(tekapctl):
    return tekapctl("study", "agreement", *SETTING, "--json")


def runs(tekapctl) -> set[str]:
    return {path.name for path in tekapctl.home.glob("runs/*")}


def test_a_study_answers_its_question(agreement):
    found = agreement.json
    assert (found["finished"], found["runs"]) == (7, 7)
    assert [arm["arm"] for arm in found["arms"]] == ["KD", "KD + TeKAP", "KD + TeKAP without noise"]
    outcomes = list(found["arms"][0]["outcomes"])
    assert len(found["contrasts"]) == 2 * len(outcomes)
    kd, tekap = (arm["outcomes"]["agreement"] for arm in found["arms"][:2])
    (contrast,) = (
        each for each in found["contrasts"] if each["contrast"] == "TeKAP vs. KD" and each["outcome"] == "agreement"
    )
    assert contrast["difference"]["mean"] == pytest.approx(tekap["mean"] - kd["mean"])
    assert found["conclusions"][-1].startswith(f"Of {2 * len(outcomes)} differences")


def test_what_is_finished_is_not_run_again(tekapctl, agreement):
    before = runs(tekapctl)
    again = tekapctl("study", "agreement", *SETTING, "--json")
    assert again.json == agreement.json
    assert "running" not in again.err
    assert tekapctl("study", "agreement", *SETTING, "--report-only", "--json").json == agreement.json
    assert runs(tekapctl) == before


def test_studies_share_runs_and_measure_each_network_once(tekapctl, agreement, tmp_path):
    before, page = runs(tekapctl), tmp_path / "page.html"
    found = tekapctl("study", "robustness", *SETTING, *SMALL, "--output", str(page), "--json")
    assert len(runs(tekapctl) - before) == 2, "only the students without a teacher are new"
    assert sum(line.startswith("measuring ") and ", seed " in line for line in found.err.splitlines()) == 8
    arms = {arm["arm"]: arm["outcomes"] for arm in found.json["arms"]}
    assert arms["KD"]["top1"] == agreement.json["arms"][0]["outcomes"]["top1"]
    assert set(arms["no distillation"]) == {"top1", "top1_fgsm", "top1_pgd", "top1_corruptions", "top1_occlusion"}
    text = page.read_text()
    assert "Are TeKAP students more robust" in text
    assert len(found.json["contrasts"]) == 15
    # Two seeds that differ by the same number of images leave nothing to test by.
    tested = sum(contrast["difference"]["p_value"] is not None for contrast in found.json["contrasts"])
    assert f"Of {tested} differences" in text
    again = tekapctl("study", "robustness", *SETTING, *SMALL, "--markdown")
    assert "measuring KD" not in again.err
    assert again.out.count("| TeKAP vs. KD |") == 5


def test_a_study_over_several_settings_judges_them_together(tekapctl, agreement):
    before = runs(tekapctl)
    over = ["--vary", "data.train_fraction=[0.05, 0.1]"]
    found = tekapctl("study", "agreement", *SETTING[:-4], *SETTING[-2:], *over, "--seeds", "1", "--json").json
    assert len(runs(tekapctl) - before) == 3, "those of the one share are there, and so is the teacher"
    assert [arm["block"] for arm in found["arms"]] == 3 * ["train_fraction 0.05"] + 3 * ["train_fraction 0.1"]
    assert {each["difference"]["pairs"] for each in found["contrasts"]} == {2}


def test_a_study_that_is_broken_off_says_how_it_goes_on(tekapctl):
    at = SETTING.index("--epochs") + 1
    long = [*SETTING[:at], "300", *SETTING[at + 1 :]]
    words = ["study", "agreement", *long, "--set", "temperature=3.0"]
    known = runs(tekapctl)
    started = start(tekapctl.home, *words)

    def trains() -> bool:
        return any((tekapctl.home / "runs" / name / "metrics.jsonl").is_file() for name in runs(tekapctl) - known)

    started.until(trains)
    started.kill(signal.SIGTERM)
    ended = started.wait()
    assert ended.code == 128 + signal.SIGTERM
    assert f"tekapctl {' '.join(words)}" in " ".join(ended.err.split())
    assert tekapctl(*words, "--report-only", "--json").json["finished"] == 1, "the teacher was there"


def test_a_dry_run_says_what_the_published_study_costs(tekapctl):
    found = tekapctl("study", "controls", "--dry-run", "--no-measure", "--json").json
    assert found["trials"] == 8 * 5
    assert found["macs"] > 1e17


def test_studies_are_listed_with_their_questions(tekapctl):
    listed = {each["study"]: each for each in tekapctl("study", "--json").json}
    assert listed.keys() >= {"controls", "teachers", "noise", "few-shot", "imbalance", "robustness", "transfer"}
    assert all(each["question"].endswith("?") for each in listed.values())
    assert listed["few-shot"]["settings"]["fractions"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["contrls"], "Did you mean controls"),
        (["few-shot", "--set", "study.shard=[1]"], "shard: unknown field"),
        (["few-shot", "--set", "study.fractions=[2.0]"], "fractions.0"),
        (["controls", "--no-tekap"], "no augmented teachers"),
        (["controls", "--vary", "data.train_fraction=0.1"], "needs a list of values"),
        (["controls", "--vary", "data.colour=[1, 2]"], "`data.colour`: unknown field"),
        (["perturbations", "--method", "sp", "--tekap"], "at the logit level"),
    ],
)
def test_what_makes_no_sense_is_refused(tekapctl, words, told):
    assert told in tekapctl.refuses("study", *words, *SETTING)


def test_a_teacher_that_is_not_there_is_missed_before_anything_runs(tekapctl):
    told = tekapctl.refuses("study", "controls", "--dataset", "digits", "--teacher", "resnet56", "--student", "resnet8")
    assert "no trained resnet56" in told
    assert "--teacher-epochs" in told
