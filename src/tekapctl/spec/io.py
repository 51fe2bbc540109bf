"""Tables of spec fields, one over another."""

from collections.abc import Mapping
from typing import Any

from tekapctl.errors import UsageError

_DEEPEST = 20
"""Dots in the path of a field, at most."""
_CHOICES = ("data", "method")
"""Fields that are a name or a table with a name."""


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another over it, field by field; dotted names are paths.

    Another data set or method than the table's starts from its own defaults.

    Raises:
        UsageError: A path leads through a field that has no fields.
    """
    result = dict(table)
    for path, value in over.items():
        if path.count(".") > _DEEPEST:
            raise UsageError(f"The field {path[:40]}... is nested too deeply.", "`tekapctl schema` lists fields.")
        first, _, rest = path.partition(".")
        if rest:
            value = {rest: value}
        below = result.get(first, {})
        if first in _CHOICES:
            value, below = ({"name": one} if isinstance(one, str) else one for one in (value, below))
        if not isinstance(value, Mapping):
            result[first] = value
            continue
        if not isinstance(below, Mapping):
            raise UsageError(f"{path} is no field: {first} is {below!r}.", "`tekapctl schema` lists fields.")
        is_another = first in _CHOICES and "name" in value and value["name"] != below.get("name")
        result[first] = merged({} if is_another else below, value)
    return result
