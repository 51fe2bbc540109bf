"""SIGKILL at random moments: every run can be resumed, ends with the same bytes, and leaves nothing behind."""

import io
import json
import os
import random
import shutil
import time
import zipfile
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.program import Started, run, start
from helpers.server import serving
from helpers.waiting import until
from tekapctl.models import build

KILLS = int(os.environ.get("TEKAPCTL_KILLS", "15"))
"""How many times the training run is killed; `tests/reliability/soak.sh` asks for many more."""
TEACHER = ["train-teacher", "--model", "resnet14", "--dataset", "digits", "--train-fraction", "0.2", "--epochs", "1"]
OPTIONS = ["--method", "crd", "--alpha", "1", "--beta", "0.8", "--set", "method.negatives=64", "--student", "resnet8"]
OPTIONS += ["--dataset", "digits", "--train-fraction", "0.1", "--batch-size", "16", "--epochs", "12"]
# A checkpoint after every step: most kills come while one is being written.
OPTIONS += ["--precision", "float32", "--device", "cpu", "--checkpoint-minutes", "1e-9", "--cache-teacher"]


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.name.endswith(".part") or path.name.startswith(".new-")]


def states(home: Path) -> set[Path]:
    return set(home.glob("runs/*/checkpoints/*.state"))


def await_checkpoint(program: Started, home: Path) -> None:
    """Wait until a program has written one, or has ended."""
    before = states(home)
    until(lambda: not states(home) <= before or not program.process.is_alive(), lambda: True)


def await_part(program: Started, folder: Path) -> None:
    """Wait until a program has begun to unpack Tiny ImageNet, or has ended."""
    parts = ".tiny-imagenet.????????.part"
    until(lambda: list(folder.glob(parts)) or not program.process.is_alive(), lambda: True)


def test_a_run_survives_being_killed_at_any_moment(tmp_path, record_property):
    home, whole = tmp_path / "home", tmp_path / "whole"
    made = run(home, *TEACHER)
    assert made.code == 0, made.err
    shutil.copytree(home, whole)
    expected = run(whole, "distill", "--teacher", "resnet14", *OPTIONS, "--json")
    assert expected.code == 0, expected.err

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    found, kills, finished = Counter(), 0, 0
    current: str | None = None
    while kills < KILLS:
        arguments = ["resume", current] if current else ["distill", "--teacher", "resnet14", *OPTIONS]
        program = start(home, *arguments)
        if source.random() < 0.8:
            await_checkpoint(program, home)
        time.sleep(source.uniform(0, 0.3))
        program.kill()
        ended = program.wait()
        if ended.code == 0:
            finished, current = finished + 1, None
            continue
        assert ended.code == -9, ended.err
        kills += 1
        begun = [path for path in (home / "runs").iterdir() if not path.name.startswith(".")]
        unfinished = [path for path in begun if not (path / "summary.json").exists()]
        assert len(unfinished) <= 1, "a killed run was not found again"
        found["with a half-written file"] += bool(leftovers(home))
        found["before there was a run"] += not unfinished
        assert len(leftovers(home)) <= 3, "what kills leave is swept away by the next run"
        current = unfinished[0].name if unfinished else None
    if current:
        listed = {row["run"]: row["status"] for row in run(home, "runs", "list", "--json").json}
        assert listed[current] == "interrupted"
    last = run(home, *(["resume", current] if current else ["distill", "--teacher", "resnet14", *OPTIONS]), "--json")
    assert last.code == 0, last.err

    weights = (whole / "runs" / expected.json["run"] / "weights.safetensors").read_bytes()
    students = [path for path in (home / "runs").iterdir() if "crd" in path.name]
    assert len(students) > finished  # one may be killed between its summary and its exit
    for student in students:
        assert (student / "weights.safetensors").read_bytes() == weights
        assert (student / "metrics.jsonl").read_text().count("\n") == 12
        assert len(list((student / "checkpoints").iterdir())) == 2
    assert not leftovers(home)
    found |= {"kills": kills, "runs": len(students)}
    print(dict(found))
    record_property("kills", dict(found))


def test_a_fetch_survives_being_killed_at_any_moment(tmp_path):
    folder = tmp_path / "files" / "vgg8_vanilla"
    folder.mkdir(parents=True)
    folder = folder.rename(tmp_path / "files" / "vgg13_vanilla")
    torch.save({"model": build("vgg13").state_dict()}, folder / "ckpt_epoch_240.pth")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    home = tmp_path / "home"
    with serving(tmp_path / "files") as server:
        mirror = {"TEKAPCTL_MIRROR": f"{server.address}/ok"}
        assert run(home, "fetch", "vgg13", **mirror).code == 0
        for _ in range(12):
            program = start(home, "fetch", "vgg13", "--force", **mirror)
            time.sleep(source.uniform(0.02, 0.6))
            program.kill()
            assert program.wait().code in (0, -9)
            assert "vgg13: ok" in run(home, "cache", "verify").out
        assert run(home, "fetch", "vgg13", **mirror).code == 0
        assert ": ok" in run(home, "cache", "verify").out
    assert not leftovers(home)
    assert list((home / "downloads").iterdir()) == []


def publish(folder: Path, level: int) -> Path:
    """A Tiny ImageNet whose images are all of one brightness."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(file, "PNG")
    inner, classes = "tiny-imagenet-200", [f"n{number:02d}" for number in range(10)]
    images = {f"train/{wnid}/images/{i}.png": file.getvalue() for wnid in classes for i in range(40)}
    images |= {f"val/images/{i}.png": file.getvalue() for i in range(40)}
    texts = {"wnids.txt": "\n".join(classes), "words.txt": ""}
    texts["val/val_annotations.txt"] = "".join(f"{i}.png\t{classes[i % 10]}\n" for i in range(40))
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{inner}.zip", "w") as archive:
        for name, content in (images | texts).items():
            archive.writestr(f"{inner}/{name}", content)
    return folder


def digest(folder: Path) -> str | None:
    """What tells the contents of a folder; None if it is not there."""
    if not folder.exists():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = sha256()
    for path in files:
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("served", [False, True])
def test_a_data_set_survives_a_fetch_that_is_killed_at_any_moment(tmp_path, served, record_property):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    home = tmp_path / "home"
    place = home / "datasets" / "tiny-imagenet"
    versions = [publish(tmp_path / "files" / name, level) for name, level in (("dark", 10), ("bright", 200))]
    found: Counter[str] = Counter()
    with serving(tmp_path / "files") as server:
        addresses = [f"{server.address}/ok/{version.name}" if served else str(version) for version in versions]
        whole = {}
        for name, address in zip(("dark", "bright"), addresses, strict=True):
            assert run(home, "fetch", "tiny-imagenet", "--from", address).code == 0
            whole[digest(place)] = name
        assert len(whole) == 2
        for number in range(12):
            program = start(home, "fetch", "tiny-imagenet", "--force", "--from", addresses[number % 2])
            if source.random() < 0.7:
                await_part(program, place.parent)
            time.sleep(source.uniform(0, 0.2))
            program.kill()
            assert program.wait().code in (0, -9)
            found[f"left {whole.get(digest(place), 'nothing')}"] += 1
            assert digest(place) in (None, *whole), "a part of a dataset is left"
            again = run(home, "fetch", "tiny-imagenet", "--offline")
            assert again.code == 0, again.err
            assert digest(place) in whole
            verified = run(home, "cache", "verify")
            assert verified.code == 0, verified.out
    assert [path.name for path in place.parent.iterdir() if path.suffix != ".lock"] == [place.name]
    print(dict(found))
    record_property("kills", dict(found))


SIGNALLED = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--epochs", "4", "--batch-size", "8"]
SIGNALLED += ["--train-fraction", "0.6", "--device", "cpu"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of a run that no signal ends."""
    home = tmp_path_factory.mktemp("undisturbed")
    return home / "runs" / run(home, *SIGNALLED, "--json").json["run"]


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path, undisturbed, number, code):
    home = tmp_path / "home"
    program = start(home, *SIGNALLED)
    program.until(lambda: list(home.glob("runs/*/metrics.jsonl")))
    program.kill(number)
    ended = program.wait()
    assert ended.code == code, ended.err
    (path,) = (home / "runs").iterdir()
    assert f"tekapctl resume {path.name}" in " ".join(ended.err.split())
    assert not (path / "summary.json").exists()
    resumed = run(home, "resume", path.name, "--json")
    assert resumed.json["last_top1"] == json.loads((undisturbed / "summary.json").read_text())["last_top1"]
    assert (path / "weights.safetensors").read_bytes() == (undisturbed / "weights.safetensors").read_bytes()


def test_distill_resume_goes_on_with_a_run_and_takes_no_other_options(tmp_path):
    home = tmp_path / "home"
    run(home, *TEACHER)
    program = start(home, "distill", "--teacher", "resnet14", *OPTIONS)
    program.until(lambda: list(home.glob("runs/*crd*/checkpoints/*.state")))
    program.kill(15)
    assert program.wait().code == 143
    (path,) = home.glob("runs/*crd*")
    assert run(home, "distill", "--resume", path.name, "--epochs", "3").code == 2
    assert run(home, "distill", "--resume", path.name, "--json").json["run"] == path.name
