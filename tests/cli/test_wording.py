"""Library code names settings; the program's messages name the options that set them."""

import ast
import re
from pathlib import Path

import pytest
import typer

import tekapctl
from tekapctl.cli.app import app
from tekapctl.cli.console import Wording

PROGRAM = typer.main.get_command(app)
SOURCE = Path(tekapctl.__file__).parent


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        (["distill"], "Use a smaller `batch_size`.", "Use a smaller --batch-size."),
        (["distill"], "Try `batch_size=32`.", "Try --batch-size 32."),
        (["distill"], "Use `tekap.logit.teachers=0`.", "Use --set tekap.logit.teachers=0."),
        (["distill"], "`debug` shows where.", "--debug shows where."),
        (["fetch", "cifar100"], "Leave out `offline`, or set `source`.", "Leave out --offline, or set --from."),
        (["runs", "list"], "Use a smaller `batch_size`.", "Use a smaller `batch_size`."),
        (["distill"], "See `tekapctl schema` and `latest`.", "See `tekapctl schema` and `latest`."),
    ],
)
def test_a_remedy_names_the_options_that_the_command_has(arguments: list[str], text: str, expected: str) -> None:
    assert Wording(PROGRAM, arguments).remedy(text) == expected


def test_a_problem_names_an_option_only_where_it_was_given() -> None:
    problem = "`ema`: Input should be less than 1"
    assert Wording(PROGRAM, ["distill", "--ema", "2"]).problem(problem) == "--ema: Input should be less than 1"
    assert Wording(PROGRAM, ["distill", "--spec", "file.toml"]).problem(problem) == problem


def _messages(file: Path) -> list[str]:
    """The texts in a file with a blank in them, without docstrings, and without commands in backquotes."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    return [re.sub(r"`?tekapctl [^`]*(`|$)|^[^`]*`", "", text) if "tekapctl " in text else text for text in texts]


def test_only_the_command_line_names_options() -> None:
    files = [file for file in SOURCE.rglob("*.py") if "cli" not in file.relative_to(SOURCE).parts]
    named = [
        f"{file.relative_to(SOURCE)}: {text}"
        for file in files
        for text in _messages(file)
        if re.search(r"(?<![\w(])--[a-z]", text) and " " in text.strip()
    ]
    assert len(files) > 100
    assert named == []
