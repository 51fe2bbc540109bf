"""The results of a run are those that `evaluate` finds."""

import pytest

from helpers.silent import Silent
from tekapctl.commands.evaluate import evaluate
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.run import execute

FIELDS = {"data": "digits", "epochs": 2, "batch_size": 128, "device": "cpu", "precision": "bfloat16"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


def measured(home, name):
    return evaluate(home, name, device="cpu", with_teacher=False)["evaluation"]


def test_a_run_in_bfloat16_says_of_student_and_teacher_what_evaluate_finds(home):
    teacher = execute(parse({**FIELDS, "kind": "teacher", "model": "resnet8"}), home, Silent())
    values = {**FIELDS, "kind": "student", "student": "resnet8", "teacher": teacher["run"]}
    student = execute(parse(values), home, Silent())
    for summary in (teacher, student):
        found = measured(home, summary["run"])
        assert summary["last_top1"] == found["top1"]
        assert summary["evaluation"]["negative_log_likelihood"] == pytest.approx(
            found["negative_log_likelihood"], rel=1e-5
        )
        assert summary["best_top1"] == measured(home, f"{summary['run']}:best")["top1"]
    assert student["teacher"]["top1"] == teacher["last_top1"]
