"""Faults around the program: a clear error, a store that stays whole, and work that can go on."""

import functools
import os
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.program import Started, run, start
from helpers.server import serving
from tekapctl.models import build

TEACHER = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--batch-size", "16", "--device", "cpu"]


def words(text: str) -> str:
    assert "Traceback" not in text, text
    return " ".join(text.split())


def await_path(program: Started, folder: Path, pattern: str) -> Path:
    program.until(lambda: list(folder.glob(pattern)))
    return next(folder.glob(pattern))


@contextmanager
def small_disk(folder: Path, size: str):
    """A file system of its own, where the test may mount one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_ends_the_run_in_words_and_it_goes_on_when_there_is_room(tmp_path):
    home = tmp_path / "home"
    with small_disk(home, "4m"):
        ballast = home / "ballast"
        program = start(home, *TEACHER, "--epochs", "4", "--checkpoint-minutes", "1e-9")
        await_path(program, home, "runs/*/checkpoints/*.state")
        program.kill(signal.SIGSTOP)  # until the disk is full
        with ballast.open("wb") as file:
            for _ in range(40):
                try:
                    file.write(bytes(2**17))
                    file.flush()
                except OSError:
                    break
        program.kill(signal.SIGCONT)
        ended = program.wait()
        assert ended.code == 1, ended.err
        assert "The disk is full" in words(ended.err)
        ballast.unlink()
        (path,) = home.glob("runs/2*")
        resumed = run(home, "resume", path.name, "--json")
        assert resumed.code == 0, resumed.err
        undisturbed = run(tmp_path / "other", *TEACHER, "--epochs", "4", "--json")
        assert resumed.json["last_top1"] == undisturbed.json["last_top1"]
        assert not list(home.rglob("*.part"))


def test_a_disk_too_small_for_a_fetch_leaves_no_half_teacher(tmp_path):
    home = tmp_path / "home"
    folder = tmp_path / "files" / "vgg13_vanilla"
    folder.mkdir(parents=True)
    torch.save({"model": build("vgg13").state_dict()}, folder / "ckpt_epoch_240.pth")
    with serving(tmp_path / "files") as server, small_disk(home, "30m"):
        ended = run(home, "fetch", "vgg13", TEKAPCTL_MIRROR=f"{server.address}/ok")
        assert ended.code == 1
        assert "disk is full" in words(ended.err) or "No space left" in words(ended.err)
        assert not list(home.glob("teachers/*.safetensors"))
        assert run(home, "evaluate", "vgg13").code == 2


@pytest.mark.parametrize("home", ["/proc/tekapctl", "a-file/home"])
def test_a_home_that_cannot_be_written_is_refused_before_any_training(tmp_path, home):
    (tmp_path / "a-file").write_text("not a folder")
    ended = Started(tmp_path / home, (*TEACHER, "--epochs", "1"), tmp_path / "output", {}).wait()
    assert ended.code == 1
    assert "TEKAPCTL_HOME" in words(ended.err)
    assert "epoch 1" not in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_is_refused_and_can_be_read(tmp_path):
    home = tmp_path / "home"
    run(home, *TEACHER, "--epochs", "1")
    for path in (home, home / "runs"):
        path.chmod(0o555)
    try:
        assert "is not writable" in words(run(home, *TEACHER, "--epochs", "1").err)
        assert run(home, "evaluate", "latest").code == 0
    finally:
        for path in (home, home / "runs"):
            path.chmod(0o755)


def test_a_run_whose_folder_is_deleted_says_so_and_writes_nothing_more(tmp_path):
    home = tmp_path / "home"
    program = start(home, *TEACHER, "--epochs", "50")
    path = await_path(program, home, "runs/2*/metrics.jsonl").parent
    shutil.rmtree(path.rename(tmp_path / "deleted"))  # at once, while the program writes
    ended = program.wait()
    assert ended.code == 1
    assert "was deleted while it ran" in words(ended.err)
    assert not list((home / "runs").iterdir())


def test_one_run_is_resumed_by_one_process(tmp_path):
    home = tmp_path / "home"
    first = start(home, *TEACHER, "--epochs", "400")
    path = await_path(first, home, "runs/2*/checkpoints/*.state").parents[1]
    second = run(home, "resume", path.name)
    assert second.code == 1
    assert "Another process is using the run" in words(second.err)
    assert "is running" in words(run(home, "runs", "rm", path.name, "--yes").err)
    first.kill(15)
    assert first.wait().code == 143


def test_processes_that_train_at_once_do_not_disturb_each_other(tmp_path):
    home = tmp_path / "home"
    programs = [start(home, *TEACHER, "--train-fraction", "0.2", "--epochs", "2", "--json") for _ in range(2)]
    ended = [program.wait() for program in programs]
    assert [one.code for one in ended] == [0, 0]
    weights = [home / "runs" / one.json["run"] / "weights.safetensors" for one in ended]
    assert weights[0] != weights[1]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_processes_that_fetch_one_teacher_at_once_fetch_it_once(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "files" / "vgg13_vanilla"
    folder.mkdir(parents=True)
    torch.save({"model": build("vgg13").state_dict()}, folder / "ckpt_epoch_240.pth")
    with serving(tmp_path / "files") as server:
        programs = [start(home, "fetch", "vgg13", TEKAPCTL_MIRROR=f"{server.address}/ok") for _ in range(3)]
        assert [program.wait().code for program in programs] == [0, 0, 0]
        assert len(server.requests) == 1
    assert ": ok" in run(home, "cache", "verify").out


def test_a_file_that_may_grow_no_more_is_an_error_in_words(tmp_path):
    """The system's limit on a file's length breaks writes in the middle, like a quota."""
    home = tmp_path / "home"
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    ended = Started(home, (*TEACHER, "--epochs", "1"), tmp_path / "output", {}, limit).wait()
    assert ended.code == 1
    assert "could not be written" in words(ended.err)
    assert not list(home.rglob("*.part"))
    assert not list(home.rglob("*.safetensors"))
