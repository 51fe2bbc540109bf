"""Every combination of a grid's axes, as tables of spec fields."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.spec import StudentSpec, TeacherSpec

MOST = 100_000
"""Runs that a file may ask for."""
_FIELDS = StudentSpec.model_fields.keys() | TeacherSpec.model_fields.keys() | {"preset"}


@dataclass(frozen=True)
class Point:
    """A value on an axis.

    Attributes:
        label: What it is called; empty for a seed.
        table: The fields that it sets.
    """

    label: str
    table: dict[str, Any]


def combinations(grid: Mapping[str, Any]) -> Iterator[tuple[Point, ...]]:
    """Each combination of the axes' points; the first axis changes slowest.

    Args:
        grid: Axes by name: a field of the spec with the values that it takes, or a word with tables of fields.

    Raises:
        UsageError: An axis is no list, is empty, or is neither a field nor a list of tables; or there are too many.
    """
    axes = [_points(path, values) for path, values in _axes(grid)]
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > MOST:
        raise UsageError(f"The grid has {count:,} combinations.", f"A sweep has at most {MOST:,}.")
    return itertools.product(*axes)


def _axes(grid: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Axes by their dotted names."""
    for name, values in grid.items():
        if isinstance(values, Mapping):
            yield from _axes(values, f"{path}{name}.")
        else:
            yield f"{path}{name}", values


def _points(path: str, values: object) -> list[Point]:
    if not isinstance(values, list) or not values:
        raise UsageError(f"The axis {path} of the grid is no list of values.", f"Write it as {path} = [...].")
    if path.partition(".")[0] in _FIELDS:
        return [Point(_word(path, value), {path: value}) for value in values]
    if not all(isinstance(value, Mapping) for value in values):
        raise UsageError(
            f"The axis {path} of the grid is no field of the spec.",
            "Name a field, or give tables of fields; `tekapctl schema` lists fields.",
        )
    return [_point(path, dict(value)) for value in values]


def _point(path: str, table: dict[str, Any]) -> Point:
    label = table.pop("label", None)
    if label is None:
        label = " ".join(filter(None, (_word(field, value) for field, value in table.items())))
    if not isinstance(label, str):
        raise UsageError(f"A label of the axis {path} is no text.", 'Write it as label = "words".')
    return Point(label, table)


def _word(path: str, value: object) -> str:
    """A value in a label: names speak for themselves, other values need their field's."""
    if path == "seed":
        return ""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        more = [_word(field, inner) for field, inner in value.items() if field != "name"]
        return " ".join([value["name"], *more])
    if isinstance(value, Mapping):
        return " ".join(_word(f"{path}.{field}", inner) for field, inner in value.items())
    if isinstance(value, str):
        return value
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{path} {shown}"
