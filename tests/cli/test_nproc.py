"""`--nproc`: one command, several processes, as torchrun starts them."""

import json
import signal

from helpers.program import Started, start
from helpers.waiting import until


def test_a_command_with_nproc_trains_on_several_processes_and_speaks_once(tekapctl, teacher):
    options = ["distill", "--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--epochs", "1"]
    result = tekapctl(*options, "--nproc", "2", "--json")
    folder = tekapctl.home / "runs" / result.json["run"]
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert result.err.count("epoch 1/1") == 1
    assert "teacher" in tekapctl.refuses(*options, "--nproc", "2", "--teacher", "vgg8")


def test_nproc_is_a_number_of_processes(tekapctl):
    assert "--nproc" in tekapctl.refuses("distill", "--nproc", "0")


def test_processes_end_with_their_launcher_and_keep_the_run(tekapctl, teacher):
    launcher = launched(tekapctl, teacher, "orphans")

    def state() -> dict:
        found = [run for run in tekapctl("runs", "list", "--json").json if "orphans" in run["run"]]
        return found[0] if found else {"status": "not begun"}

    launcher.kill()
    launcher.wait()
    until(lambda: state()["status"] != "running")
    assert state()["status"] == "interrupted"


def test_a_signal_to_the_launcher_ends_in_the_command_that_goes_on(tekapctl, teacher):
    launcher = launched(tekapctl, teacher, "signalled")
    launcher.kill(signal.SIGTERM)
    ended = launcher.wait()
    assert ended.code == 128 + signal.SIGTERM
    assert "`tekapctl resume latest --nproc 2` continues from the last checkpoint" in ended.err
    assert "Traceback" not in ended.err


def launched(tekapctl, teacher, name: str) -> Started:
    """A long run of two processes, after its first epoch."""
    options = ["distill", "--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--epochs", "2000"]
    found = start(tekapctl.home, *options, "--nproc", "2", "--name", name)
    found.until(lambda: list(tekapctl.home.glob(f"runs/*{name}*/metrics.jsonl")))
    return found
