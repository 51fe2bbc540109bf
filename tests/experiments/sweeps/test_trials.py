"""Trials carried out in this process: each once, by what the runs' own folders say."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from helpers.silent import Silent
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.experiments.sweeps.cluster import submit
from tekapctl.experiments.sweeps.folder import SweepFolder, lock, read_trial
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.plan import plan as plan_in
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.experiments.sweeps.trial import run_trial
from tekapctl.store.bundle import write_bundle
from tekapctl.store.home import Home
from tekapctl.store.importing import import_bundle
from tekapctl.store.runs import Runs

plan = partial(plan_in, datasets=Path("no-data-sets"))

TINY = {"data": {"name": "digits", "train_fraction": 0.05}, "epochs": 1, "batch_size": 16, "device": "cpu"}
SWEEP = {
    "name": "tiny",
    "spec": {**TINY, "student": "resnet8", "teacher": "resnet14"},
    "grid": {"seed": [0, 1]},
    "before": ({**TINY, "model": "resnet14"},),
}


@pytest.fixture
def folder(tmp_path) -> SweepFolder:
    return SweepFolder(Home(tmp_path / "home"), "tiny")


def do(folder: SweepFolder, made: Plan, digest: str, **options) -> str:
    folder.write_trials(made)
    return run_trial(read_trial(folder.trial_file(digest)), folder, Silent(), **options)


def states(folder: SweepFolder, made: Plan) -> list[str]:
    return [standing.state for standing in Ledger(folder.home).look(made).values()]


def runs(folder: SweepFolder) -> list[str]:
    return [run.id for run in Runs(folder.home.runs).all()]


def test_a_trial_brings_its_teacher_with_it_and_is_carried_out_once(folder, tmp_path):
    made = plan(SWEEP)
    assert states(folder, made) == ["waiting"] * 3
    _, first, second = made.trials
    run = do(folder, made, first)
    assert states(folder, made) == ["finished", "finished", "waiting"]
    teacher, _ = sorted(runs(folder), key=lambda name: "teacher" not in name)
    assert f'teacher = "{teacher}"' in (folder.home.runs / run / "spec.toml").read_text()
    assert do(folder, made, first) == run
    # The same experiment in another sweep, on another device, under another name.
    other = plan({**SWEEP, "name": "other", "spec": {**SWEEP["spec"], "device": "auto"}})
    assert do(SweepFolder(folder.home, "other"), other, first) == run
    assert len(runs(folder)) == 2
    do(folder, made, second)
    assert len(runs(folder)) == 3, "students share their teacher"
    # Runs count wherever they were trained, and if their weights are elsewhere.
    elsewhere = SweepFolder(Home(tmp_path / "elsewhere"), "tiny")
    write_bundle(Runs(folder.home.runs).all(), tmp_path / "runs.tar", weights=False)
    import_bundle(tmp_path / "runs.tar", Runs(elsewhere.home.runs))
    assert states(elsewhere, made) == ["finished"] * 3
    assert do(elsewhere, made, first) == run
    # A run that was removed is a run that is to be carried out.
    shutil.rmtree(folder.home.runs / run)
    assert states(folder, made) == ["finished", "waiting", "finished"]


def test_a_trial_whose_teacher_has_no_weights_here_says_so(folder, tmp_path):
    made = plan(SWEEP)
    teacher, first, _ = made.trials
    do(folder, made, teacher)
    elsewhere = SweepFolder(Home(tmp_path / "elsewhere"), "tiny")
    write_bundle(Runs(folder.home.runs).all(), tmp_path / "runs.tar", weights=False)
    import_bundle(tmp_path / "runs.tar", Runs(elsewhere.home.runs))
    with pytest.raises(UsageError, match="was imported without its weights"):
        do(elsewhere, made, first)
    write_bundle(Runs(folder.home.runs).all(), tmp_path / "runs.tar")
    import_bundle(tmp_path / "runs.tar", Runs(elsewhere.home.runs))
    assert do(elsewhere, made, first, retry=True) in runs(elsewhere)


def test_a_run_whose_teacher_has_changed_since_does_not_count(folder):
    made = plan(SWEEP)
    teacher, first, _ = made.trials
    run = do(folder, made, first)
    weights = folder.home.runs / do(folder, made, teacher) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    (weights.parent / "checksums.json").unlink()  # as where it was trained again
    standing = Ledger(folder.home).look(made)[first]
    assert standing.state == "waiting"
    assert standing.note == f"{run} does not count: the weights of its teacher resnet14 have changed since"
    again = do(folder, made, first)
    assert again != run
    assert Ledger(folder.home).look(made)[first].run == again


def test_a_run_of_a_version_whose_specs_had_fewer_fields_counts(folder):
    made = plan(SWEEP)
    _, first, _ = made.trials
    path = folder.home.runs / do(folder, made, first) / "trial.json"
    kept = json.loads(path.read_text())
    del kept["spec"]["standardize_logits"], kept["needs"][0]["spec"]["optimizer"]["nesterov"]
    path.write_text(json.dumps({**kept, "trial": "of other fields"}))
    assert states(folder, made) == ["finished", "finished", "waiting"]
    kept["spec"]["temperature"] = 5.0
    path.write_text(json.dumps({**kept, "trial": "of other fields"}))
    assert states(folder, made) == ["finished", "waiting", "waiting"]


def test_what_failed_before_there_was_a_run_is_tried_again_on_request(folder, tmp_path):
    weights = tmp_path / "late.safetensors"
    made = plan({**SWEEP, "spec": {**SWEEP["spec"], "teacher": str(weights)}})
    teacher, first, _ = made.trials
    with pytest.raises(TekapctlError, match="no checkpoint file"):
        do(folder, made, first)
    standing = Ledger(folder.home).look(made)[first]
    assert (standing.state, standing.run) == ("failed", None)
    assert str(weights) in standing.error
    shutil.copy(folder.home.runs / do(folder, made, teacher) / "weights.safetensors", weights)
    with pytest.raises(TekapctlError, match="failed before"):
        do(folder, made, first)
    do(folder, made, first, retry=True)
    assert states(folder, made) == ["finished", "finished", "waiting"]


def test_a_run_that_failed_is_tried_again_on_request_and_its_students_wait(folder):
    wild = {**SWEEP["before"][0], "optimizer": {"learning_rate": 1e6}, "precision": "float32"}
    made = plan({**SWEEP, "before": (wild,)})
    teacher, first, _ = made.trials
    with pytest.raises(TekapctlError, match="not ready: The loss is not finite"):
        do(folder, made, first)
    standings = Ledger(folder.home).look(made)
    assert [standing.state for standing in standings.values()] == ["failed", "waiting", "waiting"]
    assert "not finite in step" in standings[teacher].error
    assert [standing.diverged for standing in standings.values()] == [True, False, False]
    with pytest.raises(TekapctlError, match="failed before: The loss"):
        do(folder, made, teacher)
    with pytest.raises(TekapctlError, match=r"^The loss is not finite"):
        do(folder, made, teacher, retry=True)
    assert len(runs(folder)) == 1, "it is the same run that goes on"


def test_a_trial_that_another_process_holds_is_left_to_it(folder):
    made = plan(SWEEP)
    teacher, *_ = made.trials
    with lock(folder.home, teacher, wait=False):
        assert states(folder, made) == ["running", "waiting", "waiting"]
        with pytest.raises(TekapctlError, match="Another process"):
            do(folder, made, teacher)
    assert states(folder, made) == ["waiting"] * 3
    assert runs(folder) == []


def test_a_cluster_needs_an_extra_and_says_so(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)  # Python's own way of saying that it is not there
    made = plan(SWEEP)
    with pytest.raises(UsageError, match=r"pip install \"tekapctl\[slurm\]\""):
        submit(made, folder, Ledger(folder.home).look(made), "slurm", {}, retry=False, at_once=None)
    assert not folder.home.root.exists()


METHOD = """
import os
from typing import ClassVar

from tekapctl.distillation.methods import About, Method, MethodSpec, Requires, Weights


class BrokenSpec(MethodSpec):
    weights: ClassVar[Weights] = Weights(gamma=1.0, alpha=0.0, beta=1.0)
    about: ClassVar[About] = About("Mine", 2026, "0")
    requires: ClassVar[Requires] = Requires(logits=True)

    def make(self, pair):
        return Broken()


class Broken(Method):
    def loss(self, student, teacher, batch):
        if batch.step > 1 and "METHOD_IS_MENDED" not in os.environ:
            raise ZeroDivisionError("of the method")
        return (student.logits - teacher.logits).square().mean()
"""


def test_a_run_that_a_method_of_the_users_own_broke_has_failed_with_its_words(folder, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "broken:BrokenSpec")
    made = plan({**SWEEP, "spec": {**SWEEP["spec"], "method": "broken:BrokenSpec"}, "grid": {"seed": [0]}})
    _, student = made.trials
    with pytest.raises(TekapctlError, match="ZeroDivisionError: of the method"):
        do(folder, made, student)
    standing = Ledger(folder.home).look(made)[student]
    assert standing.state == "failed"
    assert "ZeroDivisionError: of the method" in str(standing.error)
    assert not standing.diverged
    with pytest.raises(TekapctlError, match=r"failed before: .*ZeroDivisionError: of the method"):
        do(folder, made, student)
    monkeypatch.setenv("METHOD_IS_MENDED", "1")
    assert do(folder, made, student, retry=True) == standing.run
    assert states(folder, made) == ["finished"] * 2
