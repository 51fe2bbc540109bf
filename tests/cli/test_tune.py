"""A search as a user starts, breaks off and repeats it."""

import pytest

from helpers.program import start
from helpers.quick_python import quick_python

SETTING = [
    *("--dataset", "digits", "--train-fraction", "0.1", "--student", "resnet8", "--batch-size", "32"),
    *("--epochs", "4", "--device", "cpu"),
]
SEARCH = ["--search", "temperature=2,4,8", "--trials", "2", "--eta", "2", "--seeds", "1", "--confirm-seeds", "2"]


def finished(program) -> dict[str, int]:
    found = (program.home / "runs").glob("*-tuned-*/summary.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_a_search_that_is_killed_continues_and_one_that_is_done_trains_nothing(tekapctl, teacher):
    words = ["tune", "--teacher", teacher, *SETTING, *SEARCH, "--name", "tuned"]
    planned = tekapctl(*words, "--dry-run", "--no-measure", "--json").json
    # The defaults and two candidates for two epochs; the defaults and one for four; both with two fresh seeds.
    assert [(each["epochs"], each["runs"]) for each in planned["stages"]] == [(2, 3), (4, 2), (4, 4)]
    killed = start(tekapctl.home, *words, QUICK_PYTHON=quick_python())
    killed.until(lambda: finished(tekapctl))
    killed.kill()
    killed.wait()
    before = finished(tekapctl)
    done = tekapctl(*words, "--workers", "2", "--json")
    assert finished(tekapctl).items() >= before.items(), "finished runs are kept"
    found = done.json
    assert found["val_fraction"] == 0.1
    assert "holding out 10% of the training images" in done.err
    assert "val top-1" in done.err
    assert ", top-1" not in done.err, "the test images are for the end"
    assert (found["runs"], found["runs_planned"], found["seeds"]) in [(9, 9, [0, 1, 2]), (7, 9, [0, 1, 2])]
    assert {each["candidate"] for each in found["candidates"]} == {0, 1, 2}
    assert found["candidates"][0]["candidate"] == found["winner"]
    assert found["confirmation"]["seeds"] == [1, 2]
    assert found["confirmation"]["test_top1"]["winner"]["seeds"] == 2
    assert len(finished(tekapctl)) == found["runs"]
    after = finished(tekapctl)
    again = tekapctl(*words)
    assert finished(tekapctl) == after, "nothing is trained again"
    assert "running" not in again.err
    assert found["confirmation"]["conclusions"][0] in again.out
    assert f"Spent: {found['runs']} runs" in again.out
    # Its last line is a command that trains with the winner's settings.
    command = again.out.splitlines()[-1].split()
    assert command[:3] == ["tekapctl", "distill", "--spec"]
    spec = tekapctl(*command[1:], "--dry-run", "--json").json["spec"]
    assert spec["temperature"] == found["settings"]["temperature"]
    assert spec["data"]["val_fraction"] == 0
    narrow = tekapctl(*words, COLUMNS="80").out.splitlines()
    assert max(len(line) for line in narrow if "best.toml" not in line) <= 80


def test_by_default_the_weight_and_the_temperature_are_searched(tekapctl, teacher):
    words = ["tune", "--teacher", teacher, *SETTING, "--method", "kd", "--dry-run", "--no-measure"]
    assert tekapctl(*words, "--json").json["search"].keys() == {"alpha", "temperature"}
    told = tekapctl(*words, COLUMNS="80").out
    assert "log scale" in told
    assert "runs to do" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--search", "alpah=1..10"], "Did you mean alpha"),
        (["--search", "lr=0.01..0.1"], "Write it as optimizer.learning_rate=0.01..0.1"),
        (["--search", "alpha"], "Write FIELD=LOW..HIGH or FIELD=VALUE,VALUE in --search"),
        (["--min-epochs", "9"], "--min-epochs is 9"),
        (["--slurm", "time=1"], "--slurm needs a cluster"),
    ],
)
def test_what_makes_no_sense_is_refused(tekapctl, teacher, words, told):
    assert told in tekapctl.refuses("tune", "--teacher", teacher, *SETTING, *words)
