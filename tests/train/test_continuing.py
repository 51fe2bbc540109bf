"""A finished run is trained longer from its last state, as a new run that says so."""

import pytest
import torch

from helpers.silent import Silent
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec import load_of_run, parse, to_dict
from tekapctl.store.bundle import write_bundle
from tekapctl.store.home import Home
from tekapctl.store.importing import import_bundle
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs
from tekapctl.store.weights import read_weights
from tekapctl.train.continuing import continued
from tekapctl.train.run import execute, resume, train_longer

QUICK = {
    "epochs": 1,
    "batch_size": 32,
    "data": {"name": "digits", "train_fraction": 0.1},
    "device": "cpu",
    "precision": "float32",
    "schedule": "constant",
}
STUDENT = {**QUICK, "student": "resnet8", "method": {"name": "crd", "negatives": 64}, "alpha": 1.0, "ema": 0.9}
TIMES = ("train_seconds", "test_seconds", "images_per_second")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    execute(parse({**QUICK, "kind": "teacher", "model": "resnet14"}), home, Silent())
    return home


@pytest.fixture(scope="module")
def short(home) -> Run:
    """A student of one epoch, with memory banks and averaged weights."""
    teacher = Runs(home.runs).latest("teacher").id
    return run_of(home, execute(parse({**STUDENT, "teacher": teacher}), home, Silent()))


@pytest.fixture(scope="module")
def longer(home, short) -> Run:
    return run_of(home, train_longer(short.id, 3, home, Silent()))


def run_of(home: Home, summary) -> Run:
    return Run(home.runs / summary["run"])


def results(run: Run) -> list[dict]:
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in run.metrics()]


class StoppedHereError(Exception):
    """The process ends here."""


class StopAfter(Silent):
    def __init__(self, steps: int):
        self.left = steps

    def on_step(self, epoch: int, step: int) -> None:
        self.left -= 1
        if not self.left:
            raise StoppedHereError


def test_without_a_schedule_it_is_the_run_in_one_go_to_the_bit(home, short, longer):
    whole = run_of(home, execute(load_of_run(short.path).model_copy(update={"epochs": 3}), home, Silent()))
    assert results(longer) == results(whole)
    for name in ("weights.safetensors", "best.safetensors", "raw.safetensors"):
        one, other = (read_weights(run.path / name)[0] for run in (longer, whole))
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert longer.summary()["continues"] == short.id
    assert longer.summary()["seconds"] > short.summary()["seconds"]
    spec = load_of_run(longer.path)
    assert (spec.epochs, spec.continues.run, spec.continues.epochs) == (3, short.id, (1,))


def test_what_was_trained_longer_can_be_trained_longer(home, short, longer):
    spec = continued(longer, 4)
    assert spec.continues.run == longer.id
    assert spec.continues.epochs == (1, 3)
    assert load_of_run(short.path).continues is None


def test_the_rate_is_that_of_the_new_number_of_epochs(home, logged):
    values = {**QUICK, "kind": "teacher", "model": "resnet8", "schedule": {"name": "linear"}, "epochs": 2}
    short = execute(parse(values), home, Silent())
    longer = run_of(home, train_longer(short["run"], 4, home, Silent()))
    rates = [entry["learning_rate"] for entry in longer.metrics()]
    assert rates == pytest.approx([0.05, 0.025, 0.025, 0.0125])
    assert any("was 0.025 in its last epoch and is 0.025 in the next, by the schedule for 4" in line for line in logged)


def test_interrupted_it_is_resumed_to_the_bit(home, short, longer):
    expected = results(longer)
    before = {path: path.stat().st_mtime_ns for path in short.path.rglob("*")}
    with pytest.raises(TekapctlError):
        train_longer(short.id, 3, home, StopAfter(7))
    stopped = Runs(home.runs).latest()
    (stopped.path / "summary.json").unlink()
    assert stopped.status == "interrupted"
    resume(stopped.id, home, Silent())
    assert results(stopped) == expected
    # Killed before anything was copied: it starts from the finished run again.
    (stopped.path / "summary.json").unlink()
    for path in (*stopped.checkpoints.iterdir(), stopped.path / "best.safetensors"):
        path.unlink()
    resume(stopped.id, home, Silent())
    assert results(stopped) == expected
    assert {path: path.stat().st_mtime_ns for path in short.path.rglob("*")} == before


def test_what_cannot_be_continued_is_refused_before_there_is_a_run(home, short, tmp_path):
    there = Runs(home.runs).all()

    def refused(reference: str, epochs: int, words: str, where: Home = home) -> None:
        with pytest.raises(TekapctlError, match=words):
            train_longer(reference, epochs, where, Silent())

    refused(short.id, 1, "was trained for 1 epochs already")
    refused("nothing", 3, "no run 'nothing'")
    copy = Home(tmp_path)
    teacher = Runs(home.runs).all()[0]
    write_bundle([teacher, short], tmp_path / "runs.tar")
    import_bundle(tmp_path / "runs.tar", Runs(copy.runs))
    refused(short.id, 2, "no checkpoint of its last epoch", copy)
    write_bundle([teacher, short], tmp_path / "runs.tar", checkpoints=True)
    import_bundle(tmp_path / "runs.tar", Runs(copy.runs))
    longer = run_of(copy, train_longer(short.id, 2, copy, Silent()))
    assert longer.status == "finished"
    (state,) = Run(copy.runs / short.id).checkpoints.iterdir()
    state.write_bytes(state.read_bytes()[:-1])
    refused(short.id, 2, "is damaged", copy)
    (longer.path / "summary.json").unlink()
    refused(longer.id, 3, "is interrupted, and `epochs` trains a finished run longer", copy)
    assert len(Runs(copy.runs).all()) == 3
    assert Runs(home.runs).all() == there


def test_the_spec_of_a_continued_run_is_not_started_anew(home, short):
    values = {**to_dict(load_of_run(short.path)), "epochs": 2}
    with pytest.raises(UsageError, match="continues"):
        execute(parse({**values, "continues": {"run": short.id, "epochs": [1]}}), home, Silent())
    with pytest.raises(UsageError, match="must be more than 2"):
        parse({**values, "continues": {"run": short.id, "epochs": [2]}})
