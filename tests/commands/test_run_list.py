"""The list of runs is filtered and sorted, and two runs are set side by side; none of it needs the spec to be valid."""

import json
from pathlib import Path

import pytest

from helpers.summaries import plain_summary
from tekapctl.cli.listings import fields_after_colon
from tekapctl.commands import run_list
from tekapctl.commands.run_list import difference
from tekapctl.errors import UsageError
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs

LOCATED_BY = {"folder": "folder", "hf": "repository"}
TEACHER = 'kind = "teacher"\nmodel = "resnet14"\nname = "t"\nseed = 0\nepochs = 2\ndata = "digits"\n'
STUDENT = """kind = "student"
student = "resnet8"
teacher = "{teacher}"
name = "mine"
seed = 1
epochs = 2
method = "kd"
[data]
name = "folder"
folder = "/photographs"
"""


def make(runs: Runs, spec: str, top1: float | None, epochs: int = 2, **summary) -> Run:
    """A run that never trained."""
    with runs.start("made", {"spec.toml": spec, "environment.json": '{"torch": "2.0", "device": "cpu"}'}) as made:
        for epoch in range(1, epochs + 1):
            made.append_metrics({"epoch": epoch, "test_top1": epoch / 100})
        if top1 is not None:
            made.write_summary(plain_summary(top1, run=made.id, **summary))
    return made


@pytest.fixture
def runs(tmp_path) -> Runs:
    runs = Runs(tmp_path / "runs")
    teacher = make(runs, TEACHER, 0.9)
    student = STUDENT.format(teacher=teacher.id)
    make(runs, student, 0.7, seconds=30.0)
    make(runs, student.replace('"kd"', '"crd"'), None, epochs=1)
    make(runs, 'kind = "teacher"\nmodel = 3\n', 0.8)
    return runs


def test_a_dataset_of_the_hub_is_listed_and_found_by_its_repository(tmp_path):
    runs = Runs(tmp_path / "runs")
    for name in ("one/flowers", "other/flowers"):
        make(runs, f'kind = "teacher"\nmodel = "resnet8"\n[data]\nname = "hf"\nrepository = "{name}"\n', None)
    rows = run_list.rows_of(runs.all(), LOCATED_BY)
    assert [row["dataset"] for row in rows] == ["hf:one/flowers", "hf:other/flowers"]
    assert run_list.select(rows, {"dataset": ["hf:other/flowers"]}) == rows[1:]
    assert run_list.select(rows, {"dataset": ["hf"]}) == rows


def test_what_follows_the_colon_is_what_the_datasets_declare(tmp_path, monkeypatch):
    monkeypatch.setenv("TEKAPCTL_HOME", str(tmp_path / "home"))
    declared = fields_after_colon()
    assert declared.items() >= {**LOCATED_BY, "imagenet": "folder", "tiny-imagenet": "folder"}.items()
    runs = Runs(tmp_path / "runs")
    for name in ("tiny-imagenet", "cifar100"):
        make(runs, f'kind = "teacher"\nmodel = "resnet8"\n[data]\nname = "{name}"\nfolder = "/here"\n', None)
    rows = run_list.rows_of(runs.all(), declared)
    assert [row["dataset"] for row in rows] == ["tiny-imagenet:/here", "cifar100"]


def test_an_epoch_of_the_init_stage_is_not_the_best(tmp_path):
    run = make(Runs(tmp_path / "runs"), TEACHER, None, epochs=1)
    run.append_metrics({"epoch": 2, "train_init": 1.0, "test_top1": 0.9})
    assert run_list.row_of(run, LOCATED_BY)["best_top1"] == 0.01


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [0, 1, 2, 3]),
        ({"name": ["mine"]}, [1, 2]),
        ({"name": ["mine", "t"]}, [0, 1, 2]),
        ({"name": ["mine"], "status": ["finished"]}, [1]),
        ({"status": ["interrupted"]}, [2]),
        ({"method": ["crd"]}, [2]),
        ({"method": ["kd", "crd"]}, [1, 2]),
        ({"model": ["resnet8"]}, [1, 2]),
        ({"dataset": ["digits"]}, [0]),
        ({"dataset": ["folder"]}, [1, 2]),
        ({"dataset": ["folder:/photographs"]}, [1, 2]),
        ({"dataset": ["folder:/others"]}, []),
        ({"dataset": ["fold"]}, []),
        ({"name": []}, [0, 1, 2, 3]),
    ],
)
def test_rows_are_selected_by_what_their_specs_say(runs, wanted, numbers):
    rows = run_list.rows_of(runs.all(), LOCATED_BY)
    assert [rows.index(row) for row in run_list.select(rows, wanted)] == numbers


def test_students_are_selected_by_their_teacher(runs):
    rows = run_list.rows_of(runs.all(), LOCATED_BY)
    for teacher in (rows[0]["run"], rows[0]["id"]):
        assert run_list.select(rows, {"teacher": [teacher]}) == rows[1:3]
    assert run_list.select(rows, {"teacher": [rows[0]["id"][1:]]}) == []


def test_a_folder_is_meant_as_seen_from_here(runs, tmp_path, monkeypatch):
    spec = STUDENT.replace("/photographs", str(tmp_path / "pictures"))
    made = make(runs, spec, 0.5)
    monkeypatch.chdir(tmp_path)
    found = run_list.select(run_list.rows_of(runs.all(), LOCATED_BY), {"dataset": ["folder:pictures"]})
    assert [row["run"] for row in found] == [made.id]


def test_rows_are_sorted_and_those_without_a_value_are_last(runs):
    rows = run_list.rows_of(runs.all(), LOCATED_BY)

    def order(column: str, *, reverse: bool = False) -> list[int]:
        return [rows.index(row) for row in run_list.ordered(rows, column, reverse=reverse)]

    assert order("last_top1") == [2, 1, 3, 0]
    assert order("last_top1", reverse=True) == [0, 3, 1, 2]
    assert order("seconds", reverse=True) == [1, 0, 3, 2]
    assert order("seed") == [0, 1, 2, 3]
    assert order("seed", reverse=True) == [1, 2, 0, 3]
    for column in run_list.COLUMNS:
        assert sorted(order(column)) == [0, 1, 2, 3]
        assert set(rows[0]) == set(run_list.COLUMNS)


def test_unknown_words_are_answered_with_near_ones(runs):
    rows = run_list.rows_of(runs.all(), LOCATED_BY)
    with pytest.raises(UsageError, match=r"no column 'top1'.*Did you mean last_top1 or best_top1\?"):
        run_list.ordered(rows, "top1")
    with pytest.raises(UsageError, match=r"no status 'finnished'.*Did you mean finished"):
        run_list.select(rows, {"status": ["finnished"]})
    assert run_list.missing(rows, {"method": ["kdd"]}) == "No run has the method 'kdd'; the runs have: crd, kd."
    assert run_list.missing(rows, {"method": ["kd"], "name": ["t"]}) is None


def test_runs_differ_in_what_their_specs_say(runs):
    one, other = runs.all()[1:3]
    found = difference(one, other)
    assert found["runs"] == [one.id, other.id]
    assert found["status"] == ["finished", "interrupted"]
    assert found["spec"] == {"method": ["kd", "crd"]}
    assert found["environment"] == {}
    assert found["results"]["last_top1"] == [0.7, None]
    assert "raw_top1" not in found["results"]
    assert found["epochs"] == [{"epoch": 1, "top1": [0.01, 0.01]}]


def test_fields_that_one_spec_has_are_compared_with_nothing(runs):
    one, other = runs.all()[:2]
    (other.path / "environment.json").write_text('{"torch": "2.1", "device": "cpu"}')
    found = difference(one, other)
    assert found["spec"]["model"] == ["resnet14", None]
    assert found["spec"]["data.name"] == [None, "folder"]
    assert found["environment"] == {"torch": ["2.0", "2.1"]}
    assert found["results"]["seconds"] == [10.0, 30.0]


def test_of_long_curves_eight_epochs_are_shown_with_the_last(tmp_path):
    runs = Runs(tmp_path / "runs")
    found = difference(make(runs, TEACHER, 0.5, epochs=100), make(runs, TEACHER, 0.5, epochs=240))
    epochs = [entry["epoch"] for entry in found["epochs"]]
    assert (len(epochs), epochs[-1]) == (8, 100)
    assert epochs == sorted(set(epochs))


def test_values_that_json_does_not_have_are_compared_as_text(tmp_path):
    runs = Runs(tmp_path / "runs")
    one = make(runs, TEACHER + "when = 2026-01-01\nmuch = inf\n", 0.5)
    found = difference(one, make(runs, TEACHER, 0.5))
    assert found["spec"] == {"when": ["2026-01-01", None], "much": ["inf", None]}
    json.dumps(found, allow_nan=False)


def test_a_run_is_compared_with_another_whose_spec_can_be_read(runs):
    one, other = runs.all()[:2]
    with pytest.raises(UsageError, match="Both runs are"):
        difference(one, one)
    Path(other.path / "spec.toml").write_text("[")
    with pytest.raises(UsageError, match="is damaged"):
        difference(one, other)
