"""A hostile command with what it must say, read from the TOML files in `cases/`."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """A command line and what must come of it.

    `{here}`, `{home}`, `{teacher}` and `{student}` stand for the working folder, the home and the ids of its runs in
    every text, and `{digits}` for a number of 5,000 digits.

    Attributes:
        name: What is tried.
        run: The arguments of the program.
        says: Words that stdout and stderr must have between them.
        never: Words that neither may have.
        code: The exit code.
        home: `empty`, or `trained` for a copy of a home with a finished teacher and a finished student of it.
        make: Makers of files in the working folder (`inputs/`).
        write: Texts by path, relative to the working folder, written before the command.
        env: Environment variables.
        keeps: Files that must be there unchanged afterwards.
        lacks: Files that must not be there afterwards.
    """

    name: str
    run: tuple[str, ...]
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    code: int = 2
    home: str = "empty"
    make: tuple[str, ...] = ()
    write: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """A text, or all texts in a list or table, with `{word}` replaced."""
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(f"{{{word}}}", text)
        return value
    if isinstance(value, Mapping):
        return {filled(key, words): filled(inner, words) for key, inner in value.items()}
    return tuple(filled(inner, words) for inner in value) if isinstance(value, list | tuple) else value


def read_cases() -> Iterator[Case]:
    """All cases of all files; a case with `each` is one for every combination of its values."""
    for path in sorted(CASES.glob("*.toml")):
        for table in tomllib.loads(path.read_text(encoding="utf-8"))["case"]:
            axes = table.pop("each", {})
            for values in itertools.product(*axes.values()):
                one = filled(table, dict(zip(axes, values, strict=True)))
                shown = " ".join(value if len(value) < 40 else f"{value[:37]}..." for value in values)
                label = f"{path.stem}: {one['name']}{f' [{shown}]' if values else ''}"
                yield Case(**{**one, "name": label})
