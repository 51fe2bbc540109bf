"""The program as a user runs it: a process of its own, a home of its own."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.program import start
from helpers.quick_python import quick_python
from helpers.result import Result


@dataclass
class Program:
    home: Path

    def __call__(self, *arguments: str, code: int = 0, **variables: str) -> Result:
        done = start(self.home, *arguments, **{"COLUMNS": "200", "QUICK_PYTHON": quick_python(), **variables}).wait()
        assert done.code == code, f"exit {done.code}\n{done.out}\n{done.err}"
        return done

    def refuses(self, *arguments: str, **variables: str) -> str:
        """The words with which wrong usage is refused: no traceback, and nothing on stdout."""
        result = self(*arguments, code=2, **variables)
        assert "Traceback" not in result.err
        assert result.out == "" or "--json" in arguments
        return " ".join(result.err.split())


@pytest.fixture(scope="session")
def tekapctl(tmp_path_factory) -> Program:
    return Program(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def teacher(tekapctl) -> str:
    """A teacher of the digits, trained by the program."""
    made = tekapctl("train-teacher", "--model", "resnet14", "--dataset", "digits", "--epochs", "6", "--json")
    return made.json["run"]


@pytest.fixture(scope="session")
def student(tekapctl, teacher) -> str:
    """A student of it, at both levels."""
    options = [
        "--dataset",
        "digits",
        "--epochs",
        "3",
        "--method",
        "crd",
        "--alpha",
        "1",
        "--beta",
        "0.8",
        "--name",
        "mine",
    ]
    return tekapctl("distill", "--teacher", teacher, "--student", "resnet8", *options, "--json").json["run"]
