"""Finished runs, grouped by what their specs say beside the seed."""

import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tekapctl.data.files.folders import FileImages
from tekapctl.errors import UsageError
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec, load_of_run, read_file, to_dict
from tekapctl.store.home import Home
from tekapctl.store.runs import Run, Runs

logger = logging.getLogger(__name__)

NOT_IN_IDENTITY = (
    *("seed", "name", "device", "compile", "checkpoint_minutes", "cache_teacher", "diagnose", "track"),
    *("data.folder", "data.stream", "data.workers"),
)
"""Fields in which two runs of one experiment may differ."""


def identifying(spec: RunSpec) -> dict[str, Any]:
    """The fields of a spec that make it the experiment it is, as a nested table; the seed is not one of them.

    Images of the user's own are told by their fingerprint, wherever they are; without one, by their folder.
    """
    table = to_dict(spec)
    for path in NOT_IN_IDENTITY:
        if path == "data.folder" and isinstance(spec.data, FileImages) and spec.data.fingerprint is None:
            continue
        *parents, last = path.split(".")
        inner: Any = table
        for part in parents:
            inner = inner.get(part, {})
        inner.pop(last, None)
    return table


@dataclass(frozen=True)
class Finished:
    """A finished run with what it was told and what came of it.

    Attributes:
        run: Its folder.
        spec: Its spec.
        summary: Its summary.
    """

    run: Run
    spec: TeacherSpec | StudentSpec
    summary: dict[str, Any]

    @property
    def last(self) -> float:
        """Top-1 after the last epoch, as a share: the number that is reported."""
        return float(self.summary["last_top1"])

    @property
    def best(self) -> float:
        """Top-1 of the best epoch."""
        return float(self.summary["best_top1"])

    @property
    def agreement(self) -> float | None:
        """Share of test images that get the teacher's class."""
        found = self.summary["evaluation"].get("agreement")
        return None if found is None else float(found)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: What sets the group apart from the others, in short.
        runs: By seed; of runs of one seed the newest.
    """

    label: str
    runs: dict[int, Finished]

    @property
    def first(self) -> Finished:
        """The run of the smallest seed."""
        return self.runs[min(self.runs)]

    def over_seeds(self, what: str) -> list[float]:
        """A property of all its runs, by seed."""
        return [float(getattr(self.runs[seed], what)) for seed in sorted(self.runs)]

    def deviation(self) -> float | None:
        """Standard deviation of the last epoch's top-1; None of a single run."""
        return statistics.stdev(self.over_seeds("last")) if len(self.runs) > 1 else None


def find(
    home: Home,
    references: Sequence[str],
    *,
    name: str | None = None,
    every: bool = False,
) -> list[Finished]:
    """Finished runs.

    A run that was not named itself, and whose spec needs what is not here now, is left out.

    Args:
        home: Where they are.
        references: Ids, unique prefixes, or `latest`.
        name: The word that their specs have as name.
        every: Whether all runs are meant.

    Raises:
        UsageError: There is none, or one that was named is not finished or has no valid spec.
    """
    runs = Runs(home.runs)
    found: list[Finished] = []
    found.extend(read_finished(runs.find(reference)) for reference in references)
    if every or name is not None:
        known = {each.run.id for each in found}
        for run in runs.all():
            if run.id in known or not (every or _name(run) == name):
                continue
            if run.status in ("running", "interrupted", "failed"):
                continue
            try:
                found.append(read_finished(run))
            except UsageError as error:
                logger.info(f"left out {run.id}: {error.problem}")
    if not found:
        raise UsageError(
            "There are no finished runs to compare.", "Name runs of `tekapctl runs list`, --name or --all."
        )
    return found


def group(found: Iterable[Finished]) -> list[Group]:
    """Runs in groups, in the order of their first runs."""
    by_spec: dict[str, dict[int, Finished]] = {}
    tables: dict[str, dict[str, Any]] = {}
    for one in sorted(found, key=lambda one: one.run.id):
        table = dict(_flat(identifying(one.spec)))
        key = repr(sorted(table.items()))
        tables[key] = table
        by_spec.setdefault(key, {})[one.spec.seed] = one
    firsts = {key: runs[min(runs)] for key, runs in by_spec.items()}
    words = {key: _words(first.spec) for key, first in firsts.items()}
    for settings in ({key: one.spec.network for key, one in firsts.items()}, _datasets(firsts)):
        if len(set(settings.values())) > 1:
            words = {key: f"{settings[key]}: {word}" for key, word in words.items()}
    labels = _told_apart(words, tables)
    return [Group(labels[key], runs) for key, runs in by_spec.items()]


def baseline_of(groups: Sequence[Group], label: str | None = None) -> Group:
    """The group that others are compared with: training alone, or else the first, unless one is named.

    Args:
        groups: The groups.
        label: A group's label, the id of one of its runs, or a word with which one label alone begins or ends, in
            upper or lower case.

    Raises:
        UsageError: There is no such group, or there are several.
    """
    if label is None:
        alone = [each for each in groups if isinstance(each.first.spec, TeacherSpec)]
        learners = [each.first.spec.network for each in groups if isinstance(each.first.spec, StudentSpec)]
        return next((each for each in alone if each.first.spec.network in learners), groups[0])
    fitting = [each for each in groups if each.label == label or any(label == r.run.id for r in each.runs.values())]
    if not fitting:
        fitting = [each for each in groups if label.casefold() in _short_names(each.label)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} groups are called {label!r}." if fitting else f"There is no group {label!r}."
        raise UsageError(problem, f"Name one of: {'; '.join(each.label for each in groups)}.")
    return fitting[0]


def _short_names(label: str) -> set[str]:
    """What a group may be called besides its label: the method, without data set, network and what differs else."""
    method = label.rpartition(": ")[2]
    return {method.casefold(), method.partition(", ")[0].casefold()}


def _name(run: Run) -> str | None:
    """The name in a run's spec, whether or not the rest of it is valid here."""
    try:
        return str(read_file(run.path / "spec.toml").get("name"))
    except UsageError:
        return None


def read_finished(run: Run) -> Finished:
    """A finished run with its spec and summary.

    Raises:
        UsageError: It is not finished, or its files are damaged.
    """
    if (problem := run.summary_problem()) is not None:
        raise UsageError(
            f"The summary of the run {run.id} is damaged: {problem}.", "`tekapctl resume` it, or leave it out."
        )
    summary = run.summary()
    if run.kind() is None:
        raise UsageError(
            f"The spec of the run {run.id} is damaged.", f"`tekapctl runs verify {run.id}` says what is wrong."
        )
    if run.status != "finished" or summary is None:
        raise UsageError(f"The run {run.id} is not finished.", "Leave it out, or `tekapctl resume` it.")
    return Finished(run, load_of_run(run.path), summary)


def _flat(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(value) if isinstance(value, list) else value


def _words(spec: TeacherSpec | StudentSpec) -> str:
    if isinstance(spec, TeacherSpec):
        return "alone"
    return spec.method.name + (" + TeKAP" if spec.augmented else " + views" if spec.angular.views else "")


def _datasets(firsts: dict[str, Finished]) -> dict[str, str]:
    """Names of the data sets; images of the user's own that are called alike are told apart by their fingerprints."""
    sections = {key: one.spec.data for key, one in firsts.items()}
    fingerprints = {key: section.fingerprint for key, section in sections.items()}
    names = {
        key: Path(section.folder).name if section.folder and section.fingerprint else section.name
        for key, section in sections.items()
    }
    for name in set(names.values()):
        alike = [key for key in names if names[key] == name]
        if len({fingerprints[key] for key in alike}) > 1:
            names |= {key: f"{name} {(fingerprints[key] or 'of unknown images')[:8]}" for key in alike}
    return names


def _told_apart(words: dict[str, str], tables: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Labels, with the fields in which specs of the same words differ."""
    labels = {}
    for key, word in words.items():
        alike = [tables[other] for other, its_word in words.items() if its_word == word]
        fields = sorted({field for table in alike for field in table})
        differing = [
            field
            for field in fields
            if len({repr(table.get(field)) for table in alike}) > 1 and field != "data.fingerprint"
        ]
        more = [f"{field} {tables[key].get(field, 'unset')}" for field in differing if field != "teacher_digest"]
        labels[key] = ", ".join([word, *more])
    named = list(labels.values())
    # Of one name, but of other weights: rare, and then all there is to tell them apart.
    return {
        key: label if named.count(label) == 1 else f"{label}, teacher {str(tables[key].get('teacher_digest'))[:8]}"
        for key, label in labels.items()
    }
