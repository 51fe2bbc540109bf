"""Seeds that are trained together are the runs they would be alone, and the teacher is asked once for all."""

import json
import signal

import pytest
import torch

from helpers.program import run, start
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.build import build_run, sibling

STUDENT = [
    "distill",
    "--method",
    "crd",
    "--alpha",
    "1",
    "--set",
    "method.negatives=64",
    "-t",
    "resnet8",
    "-s",
    "resnet8",
]
STUDENT += ["--dataset", "digits", "--train-fraction", "0.1", "--batch-size", "16", "--json"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("trials") / "home"
    teacher = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--train-fraction", "0.2", "--epochs", "1"]
    assert run(found, *teacher).code == 0
    return found


def test_a_trial_is_the_run_of_its_seed_over_the_first_ones_batches(home):
    options = [*STUDENT, "--epochs", "2"]
    trials = run(home, *options, "--seed", "5", "--seeds", "3").json
    assert [trial["seed"] for trial in trials] == [5, 6, 7]
    # Both hold the seeds' weights and no seed, so that equal weights are equal files.
    weights = [(home / "runs" / trial["run"] / "weights.safetensors").read_bytes() for trial in trials]
    assert len(set(weights)) == 3
    alone = run(home, *options, "--seed", "7", "--set", "data_seed=5").json
    assert (home / "runs" / alone["run"] / "weights.safetensors").read_bytes() == weights[2]


def test_networks_without_a_teacher_are_trained_together_too(home):
    options = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--train-fraction", "0.1", "--epochs", "1"]
    both = run(home, *options, "--seeds", "2", "--json").json
    alone = run(home, *options, "--seed", "1", "--set", "data_seed=0", "--json").json
    weights = [(home / "runs" / each["run"] / "weights.safetensors").read_bytes() for each in (*both, alone)]
    assert weights[0] != weights[1] == weights[2]


def test_a_signal_stops_all_trials_and_each_goes_on_alone(home):
    program = start(home, *STUDENT, "--epochs", "100", "--seeds", "2")
    program.until(lambda: "epoch 1/" in program.err.read_text())
    program.kill(signal.SIGTERM)
    result = program.wait()
    assert result.code == 128 + signal.SIGTERM
    names = result.err.rpartition("tekapctl resume`: ")[2].strip().rstrip(".").split(", ")
    assert len(names) == 2
    for name in names:
        folder = home / "runs" / name
        spec = (folder / "spec.toml").read_text()
        (folder / "spec.toml").write_text(spec.replace("epochs = 100", "epochs = 1", 1))
        assert run(home, "resume", name, "--json").json["status"] == "finished"
        assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 1


def test_a_trial_that_diverges_ends_alone(home):
    options = [*STUDENT, "--epochs", "1", "--seeds", "2", "--lr", "1e6"]
    result = run(home, *options)
    assert [trial["status"] for trial in json.loads(result.out)] == ["failed", "failed"]
    assert "not finite" in result.err


def test_trials_and_several_processes_are_one_too_many(home):
    options = [*STUDENT, "--epochs", "1", "--seeds", "2"]
    for result in (run(home, *options, "--nproc", "2"), run(home, *options, WORLD_SIZE="2", RANK="0")):
        assert result.code == 2
        assert "one process" in result.err


def test_for_compiled_networks_a_step_begins_with_the_batch_and_not_with_each_student(home, monkeypatch):
    happened = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: happened.append("mark"))
    values = {"method": "kd", "teacher": "resnet8", "student": "resnet8", "device": "cpu", "compile": True}
    values |= {"data": {"name": "digits", "train_fraction": 0.1}, "batch_size": 32, "epochs": 1}
    first = build_run(parse(values), Home(home), share_teachers=True)
    second = sibling(first, parse({**values, "seed": 1}))
    ask = first.trainer.objective.teacher.teacher
    first.trainer.objective.teacher.teacher = lambda batch: happened.append("teacher") or ask(batch)
    trainers = [first.trainer, second.trainer]
    happened.clear()
    for trainer in trainers:
        trainer.start_epoch()
    for batch in trainers[0].batches():
        for trainer in trainers:
            trainer.train_step(batch)
    assert happened == ["mark", "teacher"] * 5


def test_a_student_that_breaks_ends_alone(home, tmp_path):
    (tmp_path / "odd.py").write_text(BREAKS)
    options = ["distill", "-t", "resnet8", "-s", "resnet8", "--dataset", "digits", "--train-fraction", "0.1", "--json"]
    options += ["--batch-size", "16", "--epochs", "1", "--seeds", "2", "--method", "odd:Odd"]
    result = run(home, *options, PYTHONPATH=str(tmp_path))
    trials = json.loads(result.out)
    assert [trial["status"] for trial in trials] == ["finished", "failed"]
    assert "Step 4 of epoch 1 failed: KeyError: 'bank'; there is no checkpoint yet." in trials[1]["error"]
    assert f"tekapctl resume {trials[1]['run']}" in trials[1]["error"]


BREAKS = """
from tekapctl.distillation.methods import Method, MethodSpec, Requires


class Breaks(Method):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def loss(self, student, teacher, batch):
        if batch.step > self.last:
            raise KeyError("bank")
        return student.logits.square().mean()


class Odd(MethodSpec):
    requires = Requires(logits=True)

    def make(self, pair):
        return Breaks(2 if pair.seed else 100)
"""
