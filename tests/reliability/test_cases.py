"""Hostile commands: each ends with its exit code and its words, without a traceback, and without taking the memory
that a file claims."""

import hashlib
import shutil
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from helpers.program import Started, run
from reliability.case import Case, filled, read_cases
from reliability.inputs import MAKERS, load_all
from reliability.limit import limit

load_all()
CASES = list(read_cases())
VARIANTS = 3
"""How many cases that differ only in their brackets `make test` tries: the first, a middle one and the last."""


def parameters() -> list[ParameterSet]:
    """All cases; most variants of a case are exhaustive."""
    found = []
    for _, variants in groupby(CASES, key=lambda case: case.name.partition(" [")[0]):
        each = list(variants)
        tried = {round(place * (len(each) - 1) / (VARIANTS - 1)) for place in range(VARIANTS)}
        found += [
            pytest.param(case, id=case.name, marks=() if number in tried else pytest.mark.exhaustive)
            for number, case in enumerate(each)
        ]
    return found


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A home with a finished teacher and a finished student of it."""
    home = tmp_path_factory.mktemp("trained") / "home"
    common = ["--dataset", "digits", "--epochs", "1", "--train-fraction", "0.2", "--batch-size", "64"]
    for arguments in (
        ["train-teacher", "--model", "resnet14", "--name", "teach", *common],
        ["distill", "--teacher", "resnet14", "--student", "resnet8", "--name", "study", *common],
    ):
        done = run(home, *arguments)
        assert done.code == 0, done.err
    return home


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_there_are_many_cases_and_no_two_have_one_name():
    assert len({case.name for case in CASES}) == len(CASES) >= 800


@pytest.mark.parametrize("case", parameters())
def test_a_hostile_command_is_answered_in_words(case: Case, trained: Path, tmp_path: Path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    teacher, student = sorted(path.name for path in (trained / "runs").iterdir() if not path.name.startswith("."))
    if case.home == "trained":
        shutil.copytree(trained, home)
    known = {"here": str(here), "home": str(home), "teacher": teacher, "student": student, "digits": "7" * 5000}
    case = Case(**{each.name: filled(getattr(case, each.name), known) for each in fields(Case)})
    for name in case.make:
        MAKERS[name](here)
    for name, text in case.write.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    kept = [here / name for name in case.keeps]
    before = digests(kept)
    environment = {"COLUMNS": "200", **case.env}
    ended = Started(home, case.run, tmp_path / "output", environment, limit).wait()
    told = f"{ended.out}\n{ended.err}"
    assert "Traceback" not in told, told
    assert ended.code == case.code, f"exit {ended.code}\n{told}"
    flat = " ".join(told.split())
    assert not [word for word in case.says if word not in flat], told
    assert not [word for word in case.never if word in flat], told
    assert digests(kept) == before
    assert not [name for name in case.lacks if (here / name).exists()]
