"""Checkpoints are written by a thread from copies, and its errors reach the run."""

from pathlib import Path

import pytest
import torch

from helpers.silent import Silent
from tekapctl.errors import TekapctlError
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs
from tekapctl.train import checkpoint
from tekapctl.train.run import execute

CPU = torch.device("cpu")
SPEC = parse(
    {
        "kind": "teacher",
        "model": "resnet8",
        "data": {"name": "synthetic", "samples": 40, "test_samples": 8, "classes": 4, "size": 16},
        "epochs": 3,
        "batch_size": 8,
        "device": "cpu",
        "precision": "float32",
        "checkpoint_minutes": 1e-9,
    }
)


def test_a_copy_of_a_state_does_not_follow_the_training():
    network = torch.nn.BatchNorm2d(2)
    weights = network.state_dict()
    state = {"network": weights, "list": [weights["weight"]], "number": 3}
    copied = checkpoint.host_copy(state, CPU)
    network.weight.data.fill_(7)
    assert copied["network"]["weight"].tolist() == [1, 1]
    assert copied["list"][0] is copied["network"]["weight"], "what is shared is copied once"
    assert copied["network"]._metadata == state["network"]._metadata
    assert copied["number"] == 3


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    state = {"weights": torch.randn(1000, 300), "empty": torch.zeros(0), "names": ["a"]}
    path = checkpoint.save(tmp_path, 1, 2, state)
    found = checkpoint.read(path, CPU)
    assert torch.equal(found["weights"], state["weights"])
    assert found["names"] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


class BlockCheckpoints(Silent):
    """Makes the folder of checkpoints a link to nowhere after the first step."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.steps = 0

    def on_step(self, epoch: int, step: int) -> None:
        self.steps += 1
        if self.steps == 1:
            (run,) = Runs(self.home.runs).all()
            run.checkpoints.symlink_to("nowhere")


def test_an_error_of_the_thread_ends_the_run(tmp_path):
    home = Home(tmp_path)
    callback = BlockCheckpoints(home)
    with pytest.raises(TekapctlError, match="could not be written"):
        execute(SPEC, home, callback)
    assert callback.steps < 3 * 5, "the next checkpoint reports what happened to the one before"


class CountFiles(Silent):
    """Notes the checkpoints that are there after each epoch."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.found: list[list[Path]] = []

    def on_epoch(self, metrics: dict[str, float | int]) -> None:
        (run,) = Runs(self.home.runs).all()
        self.found.append(sorted(run.checkpoints.glob("*.state")))


def test_the_last_checkpoint_is_there_when_the_run_ends(tmp_path):
    home = Home(tmp_path)
    callback = CountFiles(home)
    found = execute(SPEC.model_copy(update={"checkpoint_minutes": 10.0}), home, callback)
    run = Run(home.runs / found["run"])
    assert callback.found[-1][-1].name == "epoch-000003-step-00000000.state"
    assert checkpoint.newest(run.checkpoints, CPU)[0]["progress"]["epoch"] == 3
    assert {path.suffix for path in run.checkpoints.iterdir()} == {".state"}
