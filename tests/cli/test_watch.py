"""A run watched from another terminal, as a user watches it."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from helpers.events import in_metrics, in_tensorboard
from helpers.program import Started, start
from tekapctl.store.run import Run

RUN = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--device", "cpu"]


def await_epoch(home, run: Started) -> None:
    """Wait for a run's first epoch."""
    run.until(lambda: any(path.read_text() for path in home.glob("runs/*/metrics.jsonl")))


def await_lines(program: Started, count: int) -> list[str]:
    """The first lines that a program prints."""
    program.until(lambda: program.out.read_text().count("\n") >= count)
    return program.out.read_text().splitlines()[:count]


@pytest.fixture
def program(tekapctl, tmp_path):
    return type(tekapctl)(tmp_path / "home")


def test_a_run_is_watched_until_it_has_finished(program):
    run = start(program.home, *RUN, "--epochs", "12")
    await_epoch(program.home, run)
    run.kill(signal.SIGSTOP)  # until it is watched
    now = program("watch", "--once", "--json").json
    watching = start(program.home, "watch", "--interval", "0.2")
    (first,) = await_lines(watching, 1)
    run.kill(signal.SIGCONT)
    trained, watched = run.wait(), watching.wait()
    assert trained.code == 0, trained.err
    assert now["status"] == "running"
    assert now["epochs"] == 12
    assert now["steps"] == 21
    assert now["seconds_left"] > 0
    _, *lines = watched.out.splitlines()
    begun = int(first.removeprefix("running, ").split()[0])
    assert [line.split(":")[0] for line in lines] == [f"epoch {n}/12" for n in range(begun + 1, 13)]
    told, shown = (
        [re.sub(r", [^,]* left$", "", line) for line in each if line.startswith("epoch")]
        for each in (trained.err.splitlines(), lines)
    )
    assert shown == told[begun:], "watching says what the run says"
    assert "finished: top-1" in watched.err


def test_a_run_that_is_stopped_ends_the_watching_with_how_to_go_on(program):
    run = start(program.home, *RUN, "--epochs", "500")
    await_epoch(program.home, run)
    watching = start(program.home, "watch", "--interval", "0.1")
    first, second = await_lines(watching, 2)
    assert "running" in first
    assert "/500: loss" in second
    run.kill(signal.SIGINT)
    run.wait()
    watched = watching.wait()
    assert watched.code == 1, watched.err
    found = program("runs", "list", "--json").json[0]
    assert found["status"] == "interrupted"
    assert f"`tekapctl resume {found['run']}`" in watched.err
    assert f"after epoch {found['epoch']} of 500" in watched.err
    assert all(line.startswith("epoch ") for line in watched.out.splitlines()[1:])
    state = program("watch", found["run"][:15], "--once", "--json").json
    assert (state["status"], state["epoch"], state["seconds_left"]) == ("interrupted", found["epoch"], None)
    assert program("watch", code=1).err == watched.err


def test_steps_within_a_long_epoch_are_seen(program):
    # An epoch of 1,297 steps.
    run = start(program.home, *RUN, "--epochs", "2", "--batch-size", "1")
    try:
        run.until(lambda: list(program.home.glob("runs/*/progress.json")))
        steps = []
        while len(set(steps)) < 2 and run.process.is_alive():
            steps.append(program("watch", "--once", "--json").json["step"])
        assert steps[-1] > steps[0]
        assert "of 1,297 of the next" in program("watch", "--once").out
    finally:
        run.kill()
        run.wait()


def test_a_terminal_shows_a_table_that_is_redrawn(program):
    run = start(program.home, *RUN, "--epochs", "20")
    await_epoch(program.home, run)
    run.kill(signal.SIGSTOP)  # until it is watched
    outside, inside = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "tekapctl", "watch", "--interval", "0.2"],
        env=os.environ | {"TEKAPCTL_HOME": str(program.home), "COLUMNS": "120", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    shown = os.read(outside, 65536)
    run.kill(signal.SIGCONT)
    while watching.poll() is None or shown.endswith(b"more"):
        try:
            shown += os.read(outside, 65536)
        except OSError:  # the end of a terminal
            break
    run.wait()
    assert watching.wait() == 0
    text = shown.decode()
    assert "20 of 20 epochs done" in text
    assert "about" in text
    assert text.count("images/s") > 4
    assert "\x1b[" in text


def test_what_cannot_be_watched_is_refused(program, tekapctl, teacher):
    assert "There is no run yet" in program.refuses("watch")
    assert "--once" in tekapctl.refuses("watch", teacher, "--json")
    assert "finished, 6 of 6 epochs done" in tekapctl("watch", teacher, "--once").out
    assert "finished: top-1" in tekapctl("watch", teacher).err


def test_a_run_whose_folder_goes_away_ends_the_watching(program, tmp_path):
    run = start(program.home, *RUN, "--epochs", "500")
    await_epoch(program.home, run)
    watching = start(program.home, "watch", "--interval", "0.1")
    assert "running" in await_lines(watching, 1)[0]
    (folder,) = program.home.glob("runs/*")
    folder.rename(tmp_path / "elsewhere")
    watched = watching.wait()
    assert watched.code == 1
    assert f"The run {folder.name} was removed." in watched.err
    assert run.wait().code == 1


def test_a_run_that_is_stopped_and_resumed_is_in_tensorboard_once(program):
    run = start(program.home, *RUN, "--epochs", "20", "--track", "tensorboard")
    await_epoch(program.home, run)
    run.kill(signal.SIGINT)
    assert run.wait().code == 130
    resumed = program("resume", "latest", "--json")
    assert "tracker" not in resumed.err
    found = Run(program.home / "runs" / resumed.json["run"])
    assert len(list((found.path / "tensorboard").iterdir())) == 2
    assert in_tensorboard(found.path) == in_metrics(found)


def test_a_tracker_that_is_not_installed_is_refused_before_training(program, tmp_path):
    absent = tmp_path / "absent" / "tensorboard"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(absent.parent), os.environ.get("PYTHONPATH", "")])
    told = program.refuses(*RUN, "--track", "tensorboard", PYTHONPATH=path)
    assert 'pip install "tekapctl[tensorboard]"' in told
    assert not (program.home / "runs").exists()


def test_wandb_without_a_login_is_refused_before_training(program, tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    told = program.refuses(*RUN, "--track", "wandb", HOME=str(tmp_path), WANDB_API_KEY="", WANDB_MODE="online")
    assert "WANDB_MODE=offline" in told
    assert not (program.home / "runs").exists()
