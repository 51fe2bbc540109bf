"""A run watched from another terminal, as a user watches it."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from helpers.events import in_metrics, in_tensorboard
from helpers.waiting import until
from tekapctl.store.run import Run

RUN = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--device", "cpu"]


def start(home, *arguments: str, **pipes) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tekapctl", *arguments],
        env=os.environ | {"TEKAPCTL_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes),
    )


def await_epoch(home, run: subprocess.Popen) -> None:
    """Wait for a run's first epoch."""
    until(lambda: any(path.read_text() for path in home.glob("runs/*/metrics.jsonl")), lambda: run.poll() is None)


@pytest.fixture
def program(tekapctl, tmp_path):
    return type(tekapctl)(tmp_path / "home")


def test_a_run_is_watched_until_it_has_finished(program):
    run = start(program.home, *RUN, "--epochs", "30")
    await_epoch(program.home, run)
    run.send_signal(signal.SIGSTOP)  # until it is watched
    now = program("watch", "--once", "--json").json
    watching = start(program.home, "watch", "--interval", "0.2")
    first = watching.stdout.readline()
    run.send_signal(signal.SIGCONT)
    _, err = run.communicate()
    assert run.returncode == 0, err
    out, said = watching.communicate()
    assert now["status"] == "running"
    assert now["epochs"] == 30
    assert now["steps"] == 21
    assert now["seconds_left"] > 0
    lines = out.splitlines()
    begun = int(first.removeprefix("running, ").split()[0])
    assert [line.split(":")[0] for line in lines] == [f"epoch {n}/30" for n in range(begun + 1, 31)]
    told, shown = (
        [re.sub(r", [^,]* left$", "", line) for line in each if line.startswith("epoch")]
        for each in (err.splitlines(), lines)
    )
    assert shown == told[begun:], "watching says what the run says"
    assert "finished: top-1" in said


def test_a_run_that_is_stopped_ends_the_watching_with_how_to_go_on(program):
    run = start(program.home, *RUN, "--epochs", "500")
    await_epoch(program.home, run)
    watching = start(program.home, "watch", "--interval", "0.1")
    assert "running" in watching.stdout.readline()
    assert "/500: loss" in watching.stdout.readline()
    run.send_signal(signal.SIGINT)
    run.communicate()
    out, err = watching.communicate()
    assert watching.returncode == 1, err
    found = program("runs", "list", "--json").json[0]
    assert found["status"] == "interrupted"
    assert f"`tekapctl resume {found['run']}`" in err
    assert f"after epoch {found['epoch']} of 500" in err
    assert all(line.startswith("epoch ") for line in out.splitlines())
    state = program("watch", found["run"][:15], "--once", "--json").json
    assert (state["status"], state["epoch"], state["seconds_left"]) == ("interrupted", found["epoch"], None)
    assert program("watch", code=1).err == err


def test_steps_within_a_long_epoch_are_seen(program):
    # An epoch of 1,297 steps.
    run = start(program.home, *RUN, "--epochs", "2", "--batch-size", "1")
    try:
        until(lambda: list(program.home.glob("runs/*/progress.json")), lambda: run.poll() is None)
        steps = []
        while len(set(steps)) < 2 and run.poll() is None:
            steps.append(program("watch", "--once", "--json").json["step"])
        assert steps[-1] > steps[0]
        assert "of 1,297 of the next" in program("watch", "--once").out
    finally:
        run.kill()
        run.communicate()


def test_a_terminal_shows_a_table_that_is_redrawn(program):
    run = start(program.home, *RUN, "--epochs", "20")
    await_epoch(program.home, run)
    run.send_signal(signal.SIGSTOP)  # until it is watched
    outside, inside = pty.openpty()
    watching = start(program.home, "watch", "--interval", "0.2", stdout=inside, stderr=inside)
    os.close(inside)
    shown = os.read(outside, 65536)
    run.send_signal(signal.SIGCONT)
    while watching.poll() is None or shown.endswith(b"more"):
        try:
            shown += os.read(outside, 65536)
        except OSError:  # the end of a terminal
            break
    run.communicate()
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
    assert "running" in watching.stdout.readline()
    (folder,) = program.home.glob("runs/*")
    folder.rename(tmp_path / "elsewhere")
    _, err = watching.communicate()
    assert watching.returncode == 1
    assert f"The run {folder.name} was removed." in err
    run.communicate()
    assert run.returncode == 1


def test_a_run_that_is_stopped_and_resumed_is_in_tensorboard_once(program):
    run = start(program.home, *RUN, "--epochs", "20", "--track", "tensorboard")
    await_epoch(program.home, run)
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert run.returncode == 130
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
