"""The space of a search: a range or a list of values for each spec field that is varied."""

import math
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from tekapctl.errors import UsageError
from tekapctl.experiments.identity import NOT_IN_IDENTITY, experiment, in_words
from tekapctl.settings import Settings
from tekapctl.spec import StudentSpec, merged, parse, to_dict
from tekapctl.spec.io import nearest_field
from tekapctl.spec.run import CHOICES

_DECADE = 10
"""A positive range is searched on a logarithmic scale if its ends differ by this factor or more."""
_DIGITS = 4
"""Significant digits of drawn numbers, so that they can be read and typed."""
_OWN = ("seed", "data_seed", "epochs", "name", "data.val_fraction")
_PROBLEM = ("kind", "student", "teacher_digest", "ensemble_digests", "data.name", "data.fingerprint")
_METHOD = "method.name"
_SWITCHES = ("alpha", "beta", "tekap.logit.teachers", "tekap.feature.teachers")
"""Fields that decide whether others have an effect."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if `is_integer`."""

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False

    def at(self, place: float) -> float | int:
        """The number at a place from 0 to 1."""
        beyond = self.high + 1 if self.is_integer else self.high
        found = self.low * (beyond / self.low) ** place if self.is_log else self.low + (beyond - self.low) * place
        if self.is_integer:
            return int(min(max(math.floor(found), self.low), self.high))
        return min(max(float(f"{found:.{_DIGITS}g}"), self.low), self.high)

    @property
    def extremes(self) -> tuple[float | int, ...]:
        """Both ends."""
        return self.at(0.0), self.at(1.0)

    def __str__(self) -> str:
        low, high = self.extremes
        return f"{low:g} to {high:g}{', log scale' if self.is_log else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.extremes
        return {"low": low, "high": high, "scale": "log" if self.is_log else "linear"}


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """The value at a place from 0 to 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(in_words, self.values))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Axis:
    """A spec field, as `optimizer.learning_rate`, with the values to search."""

    field: str
    values: Range | Choices


def changed(spec: StudentSpec, fields: Mapping[str, Any]) -> StudentSpec:
    """A validated copy of a spec with other values of some fields, by dotted path.

    Raises:
        UsageError: The new spec is not valid.
    """
    found = parse(merged(to_dict(spec), fields))
    assert isinstance(found, StudentSpec)
    return found


def read_axes(texts: Sequence[str], spec: StudentSpec) -> list[Axis]:
    """Read axes as `alpha=0.1..10`, `optimizer.learning_rate=0.01..0.05:log` or `temperature=2,4,8`.

    A range is `LOW..HIGH`, optionally with `:log` or `:linear`; without, a positive range over a decade or more is on a
    logarithmic scale. A list of values is separated by commas, or written as a TOML list.

    Args:
        texts: One axis each.
        spec: The default settings.

    Raises:
        UsageError: A field is unknown, cannot be searched or is given twice, or its values are not valid.
    """
    axes = [_read(text, spec) for text in texts]
    fields = [axis.field for axis in axes]
    for axis in axes:
        if fields.count(axis.field) > 1:
            raise UsageError(f"`{axis.field}` is searched twice.", "Give each field once.")
        _check(axis, spec, fields)
    return axes


def default_axes(spec: StudentSpec) -> list[Axis]:
    """The weights and the temperatures of the distillation losses of a spec.

    Weights are searched from a fifth to five times their default, temperatures from a quarter to four times (from 1 to
    16 for 4), on a logarithmic scale, and less far where a field has bounds.

    Raises:
        UsageError: The spec has no distillation loss.
    """
    around = {"alpha": (spec.alpha, 5.0), "beta": (spec.beta, 5.0)}
    if spec.alpha:
        around["temperature"] = (spec.temperature, 4.0)
    own = getattr(spec.method, "temperature", None)
    if spec.beta and isinstance(own, float):
        around["method.temperature"] = (own, 4.0)
    axes = [
        Axis(field, Range(_end(spec, field, value, 1 / factor), _end(spec, field, value, factor), is_log=True))
        for field, (value, factor) in around.items()
        if value
    ]
    if not axes:
        raise UsageError("`alpha` and `beta` are 0, so there is nothing to search.", "Name fields with `search`.")
    return axes


def value_at(spec: StudentSpec, field: str) -> Any:
    """The value of a field by its path, as a plain value."""
    found: Any = to_dict(spec)
    for name in field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """The last part of each path, where it says which field is meant; the schedule's name is called `schedule`."""
    last = {field: field.removesuffix(".name").rpartition(".")[2] for field in fields}
    known = list(last.values())
    return {field: name if known.count(name) == 1 else field for field, name in last.items()}


def in_short(settings: Mapping[str, Any]) -> str:
    """Values by field in words, such as `alpha 2.5, learning_rate 0.03`."""
    names = short_names(settings)
    return ", ".join(f"{names[field]} {in_words(value)}" for field, value in settings.items())


def _end(spec: StudentSpec, field: str, value: float, factor: float) -> float:
    """The end of a range around a value, half as far on the logarithmic scale where the field's bounds are narrower."""
    for distance in (factor, math.sqrt(factor)):
        found = float(f"{value * distance:.{_DIGITS}g}")
        with suppress(UsageError):
            changed(spec, {field: found})
            return found
    return value


def _read(text: str, spec: StudentSpec) -> Axis:
    field, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values or not all(field.split(".")):
        raise UsageError(
            f"{text!r} does not say what to search.", "Write FIELD=LOW..HIGH or FIELD=VALUE,VALUE in `search`."
        )
    field += ".name" if field in CHOICES else ""
    kinds = _kinds(spec, field)
    if field in _OWN:
        raise UsageError(f"`{field}` cannot be searched: the search sets it.", "Leave it out of `search`.")
    if field == _METHOD or field in _PROBLEM:
        what = "method" if field == _METHOD else "problem"
        raise UsageError(
            f"`{field}` cannot be searched: settings are tuned for one {what}.", "Tune once for each value of it."
        )
    if field in NOT_IN_IDENTITY:
        raise UsageError(f"`{field}` does not change the result of a run.", "Leave it out of `search`.")
    return Axis(field, _range(field, values, kinds) or _choices(field, values))


def _kinds(spec: StudentSpec, path: str) -> tuple[Any, ...]:
    """The types of a field; empty where anything is allowed, as in the arguments of an external network.

    Raises:
        UsageError: There is no such field.
    """
    holder: Any = spec
    *parents, last = path.split(".")
    for name in parents:
        holder = holder.get(name, {}) if isinstance(holder, Mapping) else getattr(holder, name, None)
    if isinstance(holder, Mapping):
        return ()
    if not isinstance(holder, Settings) or last not in type(holder).model_fields:
        near = nearest_field(path, StudentSpec, to_dict(spec))
        remedy = f"Did you mean {near}?" if near else "`tekapctl schema` lists the fields."
        raise UsageError(f"There is no field `{path}`.", remedy)
    annotation = type(holder).model_fields[last].annotation
    return get_args(annotation) or (annotation,)


def _range(field: str, text: str, kinds: Collection[Any]) -> Range | None:
    """The range in a text; None if it is a list of values."""
    first, dots, rest = text.partition("..")
    second, _, scale = rest.partition(":")
    ends = [_number(end) for end in (first, second)]
    if not dots or ends == [None, None]:
        return None
    low, high = ends
    if low is None or high is None or scale not in ("", "log", "linear"):
        raise UsageError(
            f"{text!r} is not a range for `{field}`.", f"Write it as {field}=1..10, {field}=1..10:log or :linear."
        )
    if kinds and float not in kinds and int not in kinds:
        raise UsageError(f"`{field}` is not a number, so it has no range.", f"List its values: {field}=VALUE,VALUE.")
    if low >= high:
        raise UsageError(f"The range {text} of `{field}` is empty.", "Write the smaller number first.")
    if scale == "log" and low <= 0:
        raise UsageError(f"The range {text} of `{field}` has no logarithmic scale.", "Start above 0, or use :linear.")
    whole = low.is_integer() and high.is_integer()
    is_integer = float not in kinds if kinds else whole and "." not in first + second
    if is_integer and not whole:
        raise UsageError(f"`{field}` is a whole number, unlike the ends of {text}.", "Use whole numbers.")
    is_log = scale == "log" or (not scale and low > 0 and low * _DECADE <= high)
    return Range(low, high, is_log, is_integer)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _choices(field: str, text: str) -> Choices:
    whole = _toml(text)
    values = whole if isinstance(whole, list) else [_toml(part.strip()) for part in text.split(",")]
    distinct = [value for number, value in enumerate(values) if value not in values[:number]]
    if len(distinct) < 2:
        raise UsageError(
            f"`{field}` has only one value to search.", f"Write at least two, or fix it with `{field}={text}`."
        )
    return Choices(tuple(distinct))


def _toml(text: str) -> Any:
    """A value in TOML; a plain string where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _check(axis: Axis, spec: StudentSpec, fields: Collection[str]) -> None:
    """Check that the values of an axis are valid and change something.

    Raises:
        UsageError: They do not.
    """
    field = axis.field
    weight = "alpha" if field == "temperature" else "beta" if field.startswith("method.") else None
    if weight is not None and not getattr(spec, weight) and weight not in fields:
        own = "method.temperature"
        is_there = field == "temperature" and hasattr(spec.method, "temperature") and own not in fields
        raise UsageError(
            f"`{field}` has no effect: `{weight}` is 0.",
            f"Search {own}, the method's own." if is_there else f"Set `{weight}`, or search it too.",
        )
    specs = [changed(spec, {field: value}) for value in axis.values.extremes]
    if len({experiment(each) for each in specs}) == 1 and not set(_SWITCHES) & (set(fields) - {field}):
        raise UsageError(f"`{field}` has no effect on this run.", "Leave it out, or switch on what reads it.")
