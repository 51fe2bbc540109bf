"""The program as several processes: one speaks and writes, all stop together, and any number goes on."""

import json
import signal

import pytest

from helpers.processes import free_port
from helpers.program import Started, run, start

TEACHER = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--train-fraction", "0.2", "--epochs", "1"]
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
STUDENT += ["--dataset", "digits", "--train-fraction", "0.1", "--batch-size", "13", "--epochs", "3", "--lr", "0.001"]
STUDENT += ["--precision", "float32", "--set", "sync_batch_norm=true", "--json"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    found = tmp_path_factory.mktemp("parallel") / "home"
    assert run(found, *TEACHER).code == 0
    return found


def start_several(count: int, home, *arguments: str) -> list[Started]:
    """Start the program as a launcher does."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    return [start(home, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]


def await_epoch(started: Started) -> None:
    started.until(lambda: "epoch 1/" in started.err.read_text())


def history(home, summary: str) -> list[dict]:
    lines = (home / "runs" / json.loads(summary)["run"] / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k.startswith(("train_", "test_")) and "seconds" not in k}
        for line in lines
    ]


@pytest.fixture(scope="module")
def alone(home) -> list[dict]:
    return history(home, run(home, *STUDENT).out)


def test_where_one_of_three_dies_all_end_in_words_and_two_go_on_to_the_same_end(home, alone):
    processes = start_several(3, home, *STUDENT)
    await_epoch(processes[0])
    processes[1].kill()
    results = [process.wait() for process in processes]
    assert [result.code for result in results] == [1, -signal.SIGKILL, 1]
    assert "lost another process" in results[0].err
    assert "the last good checkpoint is after epoch" in results[0].err
    name = results[0].err.partition("tekapctl resume ")[2].partition("`")[0]
    leader, other = (process.wait() for process in start_several(2, home, "resume", name, "--json"))
    assert (leader.code, other.code, other.out, other.err) == (0, 0, "", "")
    found = history(home, leader.out)
    assert found == [pytest.approx(epoch, rel=1e-3, abs=5e-3) for epoch in alone]


def test_a_signal_to_one_stops_all_after_the_same_step_and_one_alone_goes_on(home, alone):
    processes = start_several(2, home, *STUDENT, "--epochs", "30")
    await_epoch(processes[0])
    processes[1].kill(signal.SIGTERM)
    leader, other = (process.wait() for process in processes)
    assert (leader.code, other.code) == (128 + signal.SIGTERM,) * 2
    assert leader.err.count("Stopped by SIGTERM after") == 1
    assert "Stopped" not in other.err
    name = leader.err.partition("tekapctl resume ")[2].partition("`")[0]
    spec = home / "runs" / name / "spec.toml"
    spec.write_text(spec.read_text().replace("epochs = 30", "epochs = 3", 1))
    assert history(home, run(home, "resume", name, "--json").out)[:1] == [pytest.approx(alone[0], rel=1e-3, abs=5e-3)]


def test_what_is_wrong_everywhere_is_said_once(home):
    results = [each.wait() for each in start_several(2, home, *STUDENT, "--teacher", "vgg13", "--teacher", "vgg8")]
    assert [result.code for result in results] == [2, 2]
    assert "There is no trained vgg13 for digits yet" in results[0].err
    assert results[1].err == ""
