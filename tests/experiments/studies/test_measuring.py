"""What is measured of a study's runs, and which of them are left out."""

import json
import shutil

import pytest

from helpers.summaries import plain_summary
from tekapctl.experiments.studies import planning
from tekapctl.experiments.studies.result import measured_runs
from tekapctl.experiments.sweeps.state import Ledger, Standing, finished_groups
from tekapctl.spec import dumps, parse
from tekapctl.store.home import Home
from tekapctl.store.run import Run


@pytest.fixture
def finished(tmp_path):
    """A study of finished runs that were never trained, with how its trials stand."""
    home = Home(tmp_path / "home")
    spec = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 2})
    planned = planning.plan("controls", spec, home, seeds=2, settings={}, is_dry=True)
    standings = {}
    for number, (digest, trial) in enumerate(planned.plan.trials.items()):
        run = home.runs / f"20260101-{number:06}-x-0000"
        run.mkdir(parents=True)
        (run / "spec.toml").write_text(dumps(trial.spec))
        (run / "summary.json").write_text(json.dumps(plain_summary(run=run.name)))
        standings[digest] = Standing("finished", run.name, 2, 0.5)
    return home, planned, standings


def damage_summary(run):
    (run / "summary.json").write_text("{}")


def damage_spec(run):
    (run / "spec.toml").write_text("")


@pytest.mark.parametrize("damage", [damage_summary, damage_spec, shutil.rmtree])
def test_a_damaged_run_is_left_out_of_a_study_and_of_a_sweeps_report(finished, damage, logged):
    home, planned, standings = finished
    whole = measured_runs(planned, standings, home, lambda *_: None)
    assert logged == []
    digests = planned.plan.groups[next(iter(whole))]
    bad = standings[digests[0]].run
    damage(home.runs / bad)
    left = measured_runs(planned, standings, home, lambda *_: None)
    assert sum(map(len, left.values())) == sum(map(len, whole.values())) - 1
    groups = finished_groups(planned.plan, standings, home)
    assert bad not in [one.run.id for group in groups for one in group.runs.values()]
    assert len(logged) == 2
    assert all(each.startswith(f"left out {bad}: ") for each in logged)


def test_a_run_that_cannot_be_measured_is_left_out_of_a_study(finished, logged):
    home, _, _ = finished
    spec = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", "epochs": 2})
    planned = planning.plan("robustness", spec, home, seeds=1, settings={}, is_dry=True)
    digest, trial = list(planned.plan.trials.items())[-1]
    run = home.runs / "20260102-000000-y-0000"  # it has no weights
    run.mkdir()
    (run / "spec.toml").write_text(dumps(trial.spec))
    (run / "summary.json").write_text(json.dumps(plain_summary(run=run.name)))
    found = measured_runs(planned, {digest: Standing("finished", run.name)}, home, lambda *_: None)
    assert not any(found.values())
    assert logged[-1].startswith(f"left out {run.name}: ")


def test_of_a_trials_runs_those_that_cannot_be_read_do_not_count(finished):
    home, planned, standings = finished
    digest, trial = next(iter(planned.plan.trials.items()))
    run = Run(home.runs / standings[digest].run)
    assert Ledger(home).one(trial, [run]).state == "finished"
    (run.path / "spec.toml").write_text("")
    found = Ledger(home).one(trial, [run])
    assert (found.state, found.run) == ("waiting", None)
    assert "its spec cannot be read" in found.note
    (run.path / "spec.toml").write_text(dumps(trial.spec))
    (run.path / "summary.json").unlink()
    (run.path / ".lock").symlink_to(run.path / ".lock")  # even the superuser cannot open it
    found = Ledger(home).one(trial, [run])
    assert (found.state, found.run) == ("waiting", None)
    assert "no permission to read it" in found.note
