"""All combinations of a grid's axes, as tables of spec fields."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.spec import StudentSpec, TeacherSpec

MOST = 100_000
"""Maximum number of runs of a sweep."""
_FIELDS = StudentSpec.model_fields.keys() | TeacherSpec.model_fields.keys() | {"preset"}


@dataclass(frozen=True)
class Point:
    """A value on an axis.

    Attributes:
        label: Its label; empty for a seed.
        table: The spec fields that it sets.
    """

    label: str
    table: dict[str, Any]


def combinations(grid: Mapping[str, Any]) -> Iterator[tuple[Point, ...]]:
    """All combinations of the axes' points; the first axis changes slowest.

    Args:
        grid: Axes by name: a spec field with a list of values, or any other name with a list of tables.

    Raises:
        UsageError: An axis is not a list, is empty, or is neither a field nor a list of tables; or there are too many
            combinations.
    """
    axes = [_points(path, values) for path, values in _axes(grid)]
    count = math.prod(map(len, axes))
    if count > MOST:
        raise UsageError(f"The grid has {count:,} combinations.", f"A sweep has at most {MOST:,}.")
    return itertools.product(*axes)


def _axes(grid: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Axes by dotted name."""
    for name, values in grid.items():
        if isinstance(values, Mapping):
            yield from _axes(values, f"{path}{name}.")
        else:
            yield f"{path}{name}", values


def _points(path: str, values: object) -> list[Point]:
    if not isinstance(values, list) or not values:
        raise UsageError(f"The grid axis {path} is not a list of values.", f"Write it as {path} = [...].")
    if path.partition(".")[0] in _FIELDS:
        return [Point(_word(path, value), {path: value}) for value in values]
    if not all(isinstance(value, Mapping) for value in values):
        raise UsageError(
            f"The grid axis {path} is not a spec field.", "Use a field of `tekapctl schema`, or give a list of tables."
        )
    return [_point(path, dict(value)) for value in values]


def _point(path: str, table: dict[str, Any]) -> Point:
    label = table.pop("label", None)
    if label is None:
        label = " ".join(filter(None, (_word(field, value) for field, value in table.items())))
    if not isinstance(label, str):
        raise UsageError(f"A label of the grid axis {path} is not a string.", 'Write it as label = "name".')
    return Point(label, table)


def _word(path: str, value: object) -> str:
    """A value as part of a label: strings stand alone, other values follow their field's name."""
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
