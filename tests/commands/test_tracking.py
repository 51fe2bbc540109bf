"""Trackers: what they have is what metrics.jsonl has, and none of them can end a run or slow it."""

import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.events import in_metrics, in_tensorboard
from helpers.silent import Silent
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import Finished, group
from tekapctl.spec import loads, parse
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs
from tekapctl.tracking import TRACKERS, Tracker, Trackers, tracker
from tekapctl.tracking.tensorboard import TensorBoard
from tekapctl.tracking.tracker import grouped
from tekapctl.train.run import execute, resume

SPEC = {
    "kind": "teacher",
    "model": "resnet8",
    "epochs": 3,
    "data": {"name": "digits", "train_fraction": 0.1},
    "device": "cpu",
    "precision": "float32",
}
ENTRY = {"epoch": 1, "train_loss": 2.0, "test_top1": 0.5, "test_seconds": 0.1}


class HaltError(TekapctlError):
    """The run fails here."""


class HaltAfter(Silent):
    """Fails a run after an epoch, when all of that epoch is kept."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch(self, metrics):
        if metrics["epoch"] == self.epoch:
            raise HaltError("enough", "go on")


def failed_then_resumed(home: Home, track: list[str], then: tuple[str, ...] = (), **fields) -> Run:
    """A run that fails after its first epoch and is resumed."""
    with pytest.raises(HaltError):
        execute(parse({**SPEC, "track": track, **fields}), home, HaltAfter(1))
    (run,) = Runs(home.runs).all()
    assert run.status == "failed"
    assert len(run.metrics()) == 1
    resume("latest", home, Silent(), then)
    assert run.status == "finished"
    return run


def test_tensorboard_has_what_metrics_have_also_after_resuming(tmp_path):
    run = failed_then_resumed(Home(tmp_path), ["tensorboard"])
    assert in_tensorboard(run.path) == in_metrics(run)
    assert set(in_tensorboard(run.path)["test/top1"]) == {1, 2, 3}


def test_a_tracker_that_comes_later_gets_the_epochs_before_and_stays(tmp_path):
    run = failed_then_resumed(Home(tmp_path), [], ("tensorboard",))
    assert in_tensorboard(run.path) == in_metrics(run)
    assert loads((run.path / "spec.toml").read_text()).track == ("tensorboard",)


def test_epochs_that_are_trained_again_replace_those_before(tmp_path):
    first = TensorBoard()
    assert first.start("x", tmp_path, {}, 0) == 0
    for epoch in (1, 2, 3):
        first.log({**ENTRY, "train_loss": epoch}, epoch)
    # No end: the process was killed, and its newest checkpoint was damaged.
    second = TensorBoard()
    assert second.start("x", tmp_path, {}, 2) == 2
    second.log({**ENTRY, "train_loss": 30.0}, 3)
    second.finish({"status": "finished"})
    assert in_tensorboard(tmp_path)["train/loss"] == {1: 1, 2: 2, 3: 30}


def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(tmp_path, logged):
    home = Home(tmp_path)
    with pytest.raises(HaltError):
        execute(parse({**SPEC, "track": []}), home, HaltAfter(1))
    (run,) = Runs(home.runs).all()
    (run.path / "tensorboard").write_text("a file where a folder should be")
    summary = resume("latest", home, Silent(), ["tensorboard"])
    assert summary["status"] == "finished"
    assert len(run.metrics()) == 3
    (failure,) = [line for line in logged if "tracker" in line]
    assert "tensorboard failed and is switched off; the run continues" in failure


class Endless(Tracker):
    """A tracker whose server never answers."""

    never = threading.Event()

    @classmethod
    def check(cls):
        pass

    def start(self, run, folder, spec, epochs):
        self.never.wait(60)
        return 0

    def log(self, metrics, epoch): ...

    def finish(self, summary): ...


def test_a_tracker_that_never_answers_is_left_behind(tmp_path, monkeypatch, logged):
    if "endless" not in TRACKERS:
        TRACKERS.register("endless")(Endless)
    monkeypatch.setattr(tracker, "PATIENCE", 0.2)
    trackers = Trackers(["endless"])
    trackers.start("x", tmp_path, {}, [])
    trackers.log(ENTRY)
    trackers.finish({"status": "finished"})
    assert "waiting for the tracker endless" in logged[0]
    assert "the tracker endless did not finish in time" in logged[1]
    Endless.never.set()


def test_metrics_are_grouped_by_what_they_are_measured_on():
    assert grouped({**ENTRY, "learning_rate": 0.1, "train_kd": 1}) == {
        "train/loss": 2.0,
        "train/kd": 1.0,
        "test/top1": 0.5,
        "test/seconds": 0.1,
        "learning_rate": 0.1,
    }


def test_trackers_make_no_other_experiment_of_a_run(tmp_path):
    summary = {"evaluation": {}}
    runs = [
        Finished(Run(tmp_path / name), parse({**SPEC, "seed": seed, "track": track}), summary)
        for seed, (name, track) in enumerate({"a": [], "b": ["tensorboard"]}.items())
    ]
    assert len(group(runs)) == 1


def test_trackers_are_named_once_and_known():
    assert parse({"track": ["wandb", "tensorboard", "wandb"]}).track == ("wandb", "tensorboard")
    with pytest.raises(TekapctlError, match="Did you mean tensorboard"):
        Trackers.check(["tensorbord"])


def test_mlflow_has_what_metrics_have_also_after_resuming(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    run = failed_then_resumed(Home(tmp_path), ["mlflow"])
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run.path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("tekapctl")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["model"] == "resnet8"
    assert kept.data.params["data.train_fraction"] == "0.1"
    found = {}
    for name in kept.data.metrics:
        history = client.get_metric_history(kept.info.run_id, name)
        found[name] = {entry.step: entry.value for entry in history}
        assert len(found[name]) == len(history)
    assert found == in_metrics(run)


def test_wandb_offline_has_the_whole_run_also_after_resuming(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = failed_then_resumed(Home(tmp_path), ["wandb"])
    wandb.teardown()  # as at the program's end: W&B's own process writes what is left
    newest = max(run.path.glob(f"wandb/offline-run-*/run-{run.id}.wandb"), key=os.path.getmtime)
    assert in_wandb(newest) == in_metrics(run)


def in_wandb(path: Path) -> dict[str, dict[int, float]]:
    """Logged values by name and step."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[int, float]] = {}
    for data in leveldb_log(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            if not name.startswith("_"):
                found.setdefault(name, {})[record.history.step.num] = json.loads(item.value_json)
    return found


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, after W&B's own 7 bytes."""
    at, record = 7, b""
    while at < len(content):
        if 32768 - at % 32768 < 7:  # no header fits at a block's end
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last
            yield record
            record = b""
