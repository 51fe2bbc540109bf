"""Read and validate a sweep file, and expand it into trials."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from tekapctl.data import DataSpec
from tekapctl.errors import UsageError
from tekapctl.experiments import identity
from tekapctl.experiments.identity import Identity, experiment, in_words
from tekapctl.experiments.presets import preset, presets
from tekapctl.settings import Settings, flat_items
from tekapctl.spec import StudentSpec, TeacherSpec, merged, parse, read_file

_SHOWN = 5
"""Maximum number of invalid specs in an error message."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
"""A sweep's name is that of a folder."""
MOST = 100_000
"""Maximum number of runs of a sweep."""
_FIELDS = StudentSpec.model_fields.keys() | TeacherSpec.model_fields.keys() | {"preset"}


class SweepSettings(Settings):
    """Settings of the sweep itself."""

    fill_caches: bool | None = Field(
        None, description="Fill teacher caches before students start; unset to decide by the expected savings."
    )


class SweepFile(Settings):
    """The tables of a sweep file."""

    name: str = Field(pattern=NAME, description="The sweep's name.")
    sweep: SweepSettings = SweepSettings()
    spec: dict[str, Any] = Field({}, description="Spec fields that all runs of the grid share.")
    grid: dict[str, Any] = Field(
        {}, description="Axes: spec fields with lists of values, or names with lists of tables."
    )
    before: tuple[dict[str, Any], ...] = Field((), description="Runs that are trained first: teachers of the others.")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep; it shares its group with trials that differ only in their seed.

    `requires` are the trials that are its teachers, by their names in the spec.
    """

    label: str
    group: str
    spec: TeacherSpec | StudentSpec
    requires: Mapping[str, "Trial"] = field(default_factory=dict)

    @cached_property
    def identity(self) -> Identity:
        """What identifies the experiment."""
        return identity.identity(self.spec, {name: need.identity for name, need in self.requires.items()})

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the identity, in hexadecimal."""
        return identity.digest(self.identity)

    @property
    def published(self) -> float | None:
        """The published top-1 accuracy (0 to 1) after the last epoch of exactly this experiment, for any seed."""
        return None if self.requires else _published().get(experiment(self.spec))


class Point(NamedTuple):
    """A value on an axis of a grid: its label, which is empty for a seed, and the spec fields that it sets."""

    label: str
    table: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A sweep: its trials by digest, first those that are trained first, then those of the grid."""

    name: str
    settings: SweepSettings
    trials: Mapping[str, Trial]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Digests of trials that differ only in their seed, by group."""
        found: dict[str, list[str]] = {}
        for digest, trial in self.trials.items():
            found.setdefault(trial.group, []).append(digest)
        return found


def read(path: Path, datasets: Path) -> Plan:
    """Read a sweep file.

    Raises:
        UsageError: The file cannot be read, or one of its specs is not valid.
    """
    if not path.is_file():
        raise UsageError(f"There is no sweep file {str(path)!r}.", "Give the path of a TOML file.")
    try:
        return plan(read_file(path), datasets)
    except RecursionError:
        raise UsageError(f"The tables in {path} are nested too deeply.", "See docs/sweeps.md for the format.") from None


def plan(table: Mapping[str, Any], datasets: Path, *, by_network: bool = True) -> Plan:
    """The sweep that a table describes, as in a sweep file.

    The images in `datasets` are part of an experiment's identity. With `by_network`, students may refer to earlier runs
    by network, in addition to label.

    Raises:
        UsageError: A field is unknown, a spec is not valid, or two trials are the same.
    """
    try:
        file = SweepFile.model_validate(table)
    except ValidationError as error:
        wrong = "; ".join(complaint(entry) for entry in error.errors(include_url=False))
        raise UsageError(f"The sweep is not valid: {wrong}.", "See docs/sweeps.md for the format.") from None
    if not file.grid and not file.before:
        raise UsageError("The sweep has no runs.", "Add a [grid].")
    known: dict[str, DataSpec] = {}

    def identified(data: DataSpec) -> DataSpec:
        # Reading the names and sizes of all files takes a while, and trials share their images.
        key = repr(data)
        if key not in known:
            known[key] = data.with_fingerprint(datasets)
        return known[key]

    first: dict[str, Trial] = {}
    for number, fields in enumerate(file.before):
        label = str(fields.get("label", f"before {number + 1}"))
        values = merged({"kind": "teacher"}, {name: value for name, value in fields.items() if name != "label"})
        try:
            spec = _spec(values, file.name, identified)
            requires = _needs(spec, first.values(), by_network)
        except UsageError as error:
            raise UsageError(f"{label}: {error.problem}", error.remedy) from None
        if "label" not in fields:
            label = f"{spec.network} on {spec.data.name}"
        if label in first:
            raise UsageError(f"Two [[before]] runs are named {label!r}.", "Give them different labels.")
        first[label] = Trial(label, label, spec, requires)
    of_grid = _of_grid(file, first.values(), by_network, identified) if file.grid else ()
    return Plan(file.name, file.sweep, _by_digest([*first.values(), *of_grid]))


def complaint(entry: Any) -> str:
    """A pydantic error in words."""
    what = "unknown field" if entry["type"] == "extra_forbidden" else entry["msg"]
    return f"{'.'.join(map(str, entry['loc']))}: {what}"


def _of_grid(
    file: SweepFile, first: Collection[Trial], by_network: bool, identified: Callable[[DataSpec], DataSpec]
) -> list[Trial]:
    found, refused, remedy = [], dict[str, list[str]](), ""
    for points in combinations(file.grid):
        label = ", ".join(filter(None, (point.label for point in points))) or file.name
        full = ", ".join([label, *(f"seed {point.table['seed']}" for point in points if "seed" in point.table)])
        try:
            spec = _spec(_table(file.spec, points), file.name, identified)
            found.append(Trial(full, label, spec, _needs(spec, first, by_network)))
        except UsageError as error:
            refused.setdefault(error.problem.rstrip("."), []).append(full)
            remedy = error.remedy
    if refused:
        told = [f"{_first(labels)}: {problem}" for problem, labels in refused.items()]
        more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise UsageError("; ".join(told[:_SHOWN]) + f"{more}.", remedy)
    return found


def _first(labels: Sequence[str]) -> str:
    """The first of the combinations that are refused for one reason."""
    return labels[0] if len(labels) == 1 else f"{labels[0]}, and {len(labels) - 1} more"


def _table(shared: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    """The fields of a combination: the preset's, overridden by the shared ones, overridden by the axes'."""
    tables = [shared, *(point.table for point in points)]
    named = [table["preset"] for table in tables if "preset" in table]
    found = preset(str(named[-1])).table if named else {}
    for table in tables:
        found = merged(found, {name: value for name, value in table.items() if name != "preset"})
    return found


def _spec(values: dict[str, Any], name: str, identified: Callable[[DataSpec], DataSpec]) -> TeacherSpec | StudentSpec:
    """The spec of a trial; `identified` adds the fingerprint of its images."""
    values = {"name": name, **values}
    if values.get("kind") == "teacher":
        # A student without a teacher, among students: drop the fields that need a teacher.
        values = {"model": values["student"], **values} if "student" in values else values
        only = StudentSpec.model_fields.keys() - TeacherSpec.model_fields.keys()
        values = {field: value for field, value in values.items() if field not in only}
    spec = parse(values)
    with suppress(UsageError):  # the run itself reports missing images
        spec = spec.model_copy(update={"data": identified(spec.data)})
    return spec


def _needs(spec: TeacherSpec | StudentSpec, first: Collection[Trial], by_network: bool) -> dict[str, Trial]:
    """The earlier trials that are this one's teachers: by label, or by network and dataset."""
    if not isinstance(spec, StudentSpec):
        return {}
    found = {}
    for name in (spec.teacher, *spec.ensemble):
        named = [trial for trial in first if trial.label == name]
        same_data = [trial for trial in first if by_network and trial.spec.data.is_same_as(spec.data)]
        alike = [trial for trial in same_data if trial.spec.network == name]
        if not named and len(alike) > 1:
            raise UsageError(
                f"{len(alike)} [[before]] runs train {name} on {spec.data.name}.",
                "Give each a label, and use that label as the teacher.",
            )
        for trial in named or alike:
            found[name] = trial
    return found


def _by_digest(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Trials by digest.

    Raises:
        UsageError: Two trials are the same, or different experiments have the same name.
    """
    found: dict[str, Trial] = {}
    groups: dict[str, str] = {}
    for trial in trials:
        what = trial.identity
        digest, key = identity.digest(what), identity.group(what)
        if digest in found:
            raise UsageError(
                f"{found[digest].label!r} and {trial.label!r} are the same experiment.", "Remove one of them."
            )
        if groups.setdefault(trial.group, key) != key:
            raise UsageError(f"Different experiments are named {trial.group!r}.", "Give them different labels.")
        found[digest] = trial
    return found


@cache
def _published() -> dict[str, float]:
    """Published top-1 accuracies after the last epoch, by experiment."""
    return {
        experiment(parse(one.table)): one.published.top1 / 100
        for one in presets()
        if one.is_runnable and one.published and one.published.epoch == "last" and one.published.top1 is not None
    }


def combinations(grid: Mapping[str, Any]) -> Iterator[tuple[Point, ...]]:
    """All combinations of the axes' points; the first axis changes slowest.

    An axis is a spec field with a list of values, or any other name with a list of tables.

    Raises:
        UsageError: An axis is not a list, is empty, or is neither a field nor a list of tables; or there are too many
            combinations.
    """
    axes = [_points(path, values) for path, values in flat_items(grid)]
    count = math.prod(map(len, axes))
    if count > MOST:
        raise UsageError(f"The grid has {count:,} combinations.", f"A sweep has at most {MOST:,}.")
    return itertools.product(*axes)


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
    return f"{path} {in_words(value)}"
