"""A sweep's file, checked whole, as the trials that it asks for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tekapctl.errors import UsageError
from tekapctl.experiments.presets import preset, presets
from tekapctl.experiments.sweeps import identity
from tekapctl.experiments.sweeps.grid import Point, combinations
from tekapctl.experiments.sweeps.identity import Identity, experiment
from tekapctl.settings import Settings
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec, merged, parse, read_file

_SHOWN = 5
"""Refused specs that are named one by one."""


class SweepSettings(Settings):
    """How a sweep goes about its runs."""

    warm: bool | None = Field(
        None, description="Ask teachers for all they will be asked, before their students start; None where it pays."
    )


class SweepFile(Settings):
    """What a sweep's file may hold."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="The sweep's name.")
    sweep: SweepSettings = SweepSettings()
    spec: dict[str, Any] = Field({}, description="Fields that all runs of the grid share.")
    grid: dict[str, Any] = Field({}, description="Axes: fields with lists of values, or words with lists of tables.")
    before: tuple[dict[str, Any], ...] = Field((), description="Runs that come first: teachers of the others.")


@dataclass(frozen=True)
class Trial:
    """One run that a sweep asks for.

    Attributes:
        label: What it is called.
        group: What it and those of other seeds are called together.
        spec: Its spec, as the file has it.
        requires: Trials whose networks the spec names as teachers, by that name.
        published: The published top-1 in percent of the same experiment, if a table has it.
    """

    label: str
    group: str
    spec: TeacherSpec | StudentSpec
    requires: Mapping[str, "Trial"] = field(default_factory=dict)
    published: float | None = None

    @cached_property
    def identity(self) -> Identity:
        """What makes it the trial that it is."""
        return identity.identity(self.spec, {name: need.identity for name, need in self.requires.items()})

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of that, in hexadecimal."""
        return identity.digest(self.identity)


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        name: Its name.
        settings: How it goes about its runs.
        trials: By digest: those that come before others first, then those of the grid.
    """

    name: str
    settings: SweepSettings
    trials: Mapping[str, Trial]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Digests of trials that differ in their seed alone, by what they are called."""
        found: dict[str, list[str]] = {}
        for digest, trial in self.trials.items():
            found.setdefault(trial.group, []).append(digest)
        return found


def read(path: Path, datasets: Path) -> Plan:
    """The sweep of a file.

    Args:
        path: The file.
        datasets: Where data sets are kept.

    Raises:
        UsageError: The file cannot be read, or one of its specs is not valid.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no sweep file {str(path)!r}.",
            "Name a TOML file; `tekapctl sweep status`, `cancel` and `report` take one too.",
        )
    try:
        return plan(read_file(path), datasets)
    except RecursionError:
        raise UsageError(
            f"The tables in {path} are nested too deeply.", "docs/sweeps.md says what it may hold."
        ) from None


def plan(table: Mapping[str, Any], datasets: Path, *, by_network: bool = True) -> Plan:
    """The sweep that a file's table describes.

    Args:
        table: The file's.
        datasets: Where data sets are kept; which images are there is part of what an experiment is.
        by_network: Whether a student may name a run that comes first by its network, and not by its label alone.

    Raises:
        UsageError: A field is unknown, a spec is not valid, or two trials are the same.
    """
    try:
        file = SweepFile.model_validate(table)
    except ValidationError as error:
        wrong = "; ".join(complaint(entry) for entry in error.errors(include_url=False))
        raise UsageError(f"The sweep is not valid: {wrong}.", "docs/sweeps.md says what it may hold.") from None
    if not file.grid and not file.before:
        raise UsageError("The sweep has no runs.", "Give it a [grid].")
    first: dict[str, Trial] = {}
    for number, fields in enumerate(file.before):
        label = fields.get("label", f"before {number + 1}")
        values = merged({"kind": "teacher"}, {name: value for name, value in fields.items() if name != "label"})
        trial = _before(str(label), values, file.name, list(first.values()), by_network, datasets)
        trial = trial if "label" in fields else _named(trial)
        if trial.label in first:
            raise UsageError(f"Two runs that come first are called {trial.label!r}.", "Give each a label of its own.")
        first[trial.label] = trial
    of_grid = _of_grid(file, list(first.values()), by_network, datasets) if file.grid else ()
    trials = [*first.values(), *of_grid]
    return Plan(file.name, file.sweep, _apart(trials))


def complaint(entry: Any) -> str:
    """What pydantic finds wrong, in words."""
    what = "unknown field" if entry["type"] == "extra_forbidden" else entry["msg"]
    return f"{'.'.join(map(str, entry['loc']))}: {what}"


def _before(
    label: str, values: dict[str, Any], name: str, earlier: Sequence[Trial], by_network: bool, datasets: Path
) -> Trial:
    try:
        spec = _spec(values, name, datasets)
        return Trial(label, label, spec, _needs(spec, earlier, by_network))
    except UsageError as error:
        raise UsageError(f"{label}: {error.problem}", error.remedy) from None


def _named(trial: Trial) -> Trial:
    """A trial that comes first and was given no label."""
    words = f"{trial.spec.network} on {trial.spec.data.name}"
    return Trial(words, words, trial.spec, trial.requires)


def _of_grid(file: SweepFile, first: Sequence[Trial], by_network: bool, datasets: Path) -> Iterator[Trial]:
    found, refused, remedy = [], [], ""
    for points in combinations(file.grid):
        label = ", ".join(filter(None, (point.label for point in points))) or file.name
        try:
            spec = _spec(_table(file.spec, points), file.name, datasets)
            requires = _needs(spec, first, by_network)
        except UsageError as error:
            refused.append(f"{_with_seed(label, points)}: {error.problem.rstrip('.')}")
            remedy = error.remedy
            continue
        by_seed = any("seed" in point.table for point in points)
        full = f"{label}, seed {spec.seed}" if by_seed else label
        found.append(Trial(full, label, spec, requires, None if requires else published(spec)))
    if refused:
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise UsageError("; ".join(refused[:_SHOWN]) + f"{more}.", remedy)
    yield from found


def _with_seed(label: str, points: Sequence[Point]) -> str:
    seeds = [f"seed {point.table['seed']}" for point in points if "seed" in point.table]
    return ", ".join([label, *seeds])


def _table(shared: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    """The fields of a combination: a preset's, over them the shared ones, over them the axes'."""
    named = [table["preset"] for table in (shared, *(point.table for point in points)) if "preset" in table]
    table = preset(str(named[-1])).table if named else {}
    for over in (shared, *(point.table for point in points)):
        table = merged(table, {name: value for name, value in over.items() if name != "preset"})
    return table


def _spec(values: dict[str, Any], name: str, datasets: Path) -> TeacherSpec | StudentSpec:
    values = {"name": name, **values}
    if values.get("kind") == "teacher":
        # A student trained alone, among students: what only those with a teacher have is not for it.
        values = {"model": values["student"], **values} if "student" in values else values
        only = StudentSpec.model_fields.keys() - TeacherSpec.model_fields.keys()
        values = {field: value for field, value in values.items() if field not in only}
    spec = parse(values)
    with suppress(UsageError):  # of images that are not there yet the run itself will say so
        spec = spec.model_copy(update={"data": spec.data.stamped(datasets)})
    return spec


def _needs(spec: TeacherSpec | StudentSpec, first: Sequence[Trial], by_network: bool) -> dict[str, Trial]:
    """Trials that come first and are this one's teachers: by label, or by network and data set."""
    if not isinstance(spec, StudentSpec):
        return {}
    found = {}
    for name in (spec.teacher, *spec.ensemble):
        named = [trial for trial in first if trial.label == name]
        alike = [
            trial
            for trial in first
            if by_network and trial.spec.network == name and trial.spec.data.is_same_as(spec.data)
        ]
        if not named and len(alike) > 1:
            raise UsageError(
                f"{len(alike)} runs that come first train {name} on {spec.data.name}.",
                "Give each a label, and name it as the teacher.",
            )
        for trial in named or alike:
            found[name] = trial
    return found


def _apart(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Trials by their digests.

    Raises:
        UsageError: Two are the same, or what differs beside the seed is called the same.
    """
    found: dict[str, Trial] = {}
    groups: dict[str, str] = {}
    for trial in trials:
        what = trial.identity
        digest, key = identity.digest(what), identity.group(what)
        if digest in found:
            raise UsageError(
                f"{found[digest].label!r} and {trial.label!r} are the same experiment.", "Leave out one of them."
            )
        if groups.setdefault(trial.group, key) != key:
            raise UsageError(f"Different experiments are called {trial.group!r}.", "Give them labels of their own.")
        found[digest] = trial
    return found


def published(spec: RunSpec) -> float | None:
    """The published last top-1 in percent of exactly this experiment, whatever its seed; None where none is known."""
    return _known().get(experiment(spec))


@cache
def _known() -> dict[str, float]:
    found = {}
    for one in presets():
        row = one.published
        # Sweeps show last epochs' accuracies; others do not compare with them.
        if row is not None and row.epoch == "last" and one.is_runnable:
            assert row.top1 is not None
            found[experiment(parse(one.table))] = row.top1
    return found
