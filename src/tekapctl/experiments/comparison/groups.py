"""Finished runs, grouped by experiment: runs of one group differ only in their seed."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tekapctl.errors import UsageError, counted
from tekapctl.experiments.identity import identifying, in_words
from tekapctl.settings import flat_items
from tekapctl.spec import StudentSpec, TeacherSpec, load_of_run, read_file
from tekapctl.spec.run import CHOICES
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs

_RUN_ID = re.compile(r"\d{8}-\d{6}-.*-([0-9a-f]{4,})")

logger = logging.getLogger(__name__)

NO_DISTILLATION = "no distillation"
"""Label of networks that are trained without a teacher."""


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    run: Run
    spec: TeacherSpec | StudentSpec
    summary: dict[str, Any]

    @property
    def top1(self) -> float:
        """Top-1 accuracy after the last epoch, 0 to 1."""
        return float(self.summary["last_top1"])


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, by seed (the newest if a seed has several), with a distinctive label."""

    label: str
    runs: dict[int, Finished]

    @property
    def first(self) -> Finished:
        """The run with the smallest seed."""
        return self.runs[min(self.runs)]

    @property
    def top1(self) -> list[float]:
        """Top-1 accuracies after the last epoch, ordered by seed."""
        return [self.runs[seed].top1 for seed in sorted(self.runs)]


def different_hardware(found: Iterable[Finished]) -> str | None:
    """A sentence about runs that were not all trained on one kind of hardware in one precision; None if they were.

    Runs of one seed on different hardware differ by rounding, which training amplifies to differences as between seeds.
    """
    kinds: Counter[str] = Counter()
    for one in found:
        made = one.run.environment()
        device = re.sub(r", \d+ threads?", "", str(made.get("device", "unknown hardware")))
        kinds[f"{made['precision']} on {device}" if "precision" in made else device] += 1
    if len(kinds) < 2:
        return None
    each = "; ".join(f"{kind} ({counted(count, 'run')})" for kind, count in kinds.most_common())
    return f"not trained on the same hardware, or not in the same precision: {each}"


def find(home: Home, references: Sequence[str], *, names: Sequence[str] = (), every: bool = False) -> list[Finished]:
    """Find finished runs. Runs that are not listed in `references` and cannot be read are skipped.

    Selects the runs in `references` (ids, unique prefixes, or `latest`), those whose spec has one of these `names`, or
    `every` run.

    Raises:
        UsageError: No run was found, or a run in `references` is not finished or has an invalid spec.
    """
    runs = Runs(home.runs)
    found = [read_finished(runs.find(reference)) for reference in references]
    if every or names:
        known = {each.run.id for each in found}
        for run in runs.all():
            if run.id in known or not (every or _name(run) in names):
                continue
            if run.status in ("running", "interrupted", "failed"):
                continue
            try:
                found.append(read_finished(run))
            except UsageError as error:
                logger.info(f"left out {run.id}: {error.problem}")
    if not found:
        raise UsageError(
            "There are no finished runs to compare.", "Name runs of `tekapctl runs list`, or give `names` or `every`."
        )
    return found


Table = dict[str, Any]
"""The fields of a spec that identify its experiment, by their dotted paths."""


def by_experiment(found: Iterable[Finished]) -> tuple[dict[str, dict[int, Finished]], dict[str, Table]]:
    """The runs of each experiment by seed, in the order of their first runs, and what identifies each, by a key."""
    by_spec: dict[str, dict[int, Finished]] = {}
    tables: dict[str, Table] = {}
    for one in sorted(found, key=lambda one: one.run.id):
        items = flat_items(identifying(one.spec))
        table = {path: in_words(value) if isinstance(value, list) else value for path, value in items}
        key = repr(sorted(table.items()))
        tables[key] = table
        by_spec.setdefault(key, {})[one.spec.seed] = one
    return by_spec, tables


def group(found: Iterable[Finished]) -> list[Group]:
    """Group runs by experiment, in the order of their first runs."""
    by_spec, tables = by_experiment(found)
    firsts = {key: runs[min(runs)] for key, runs in by_spec.items()}
    words = {key: words_of(first.spec) for key, first in firsts.items()}
    for settings in ({key: one.spec.network for key, one in firsts.items()}, datasets_of(firsts)):
        if len(set(settings.values())) > 1:
            words = {key: f"{settings[key]}: {word}" for key, word in words.items()}
    labels = _distinct(words, tables)
    return [Group(labels[key], runs) for key, runs in by_spec.items()]


def baseline_of(groups: Sequence[Group], label: str | None = None) -> Group:
    """The group that the others are compared with: training without a teacher, else the first group.

    A label may be a group's, the id of one of its runs, or the method in the group's label (case-insensitive).

    Raises:
        UsageError: No group or several groups match.
    """
    if label is None:
        students = [each.first.spec.network for each in groups if isinstance(each.first.spec, StudentSpec)]
        undistilled = [each for each in groups if isinstance(each.first.spec, TeacherSpec)]
        return next((each for each in undistilled if each.first.spec.network in students), groups[0])
    fitting = [each for each in groups if each.label == label or any(label == r.run.id for r in each.runs.values())]
    if not fitting:
        fitting = [each for each in groups if label.casefold() in short_names(each.label)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} groups match {label!r}." if fitting else f"There is no group {label!r}."
        raise UsageError(problem, f"Choose one of: {'; '.join(each.label for each in groups)}.")
    return fitting[0]


def short_names(label: str) -> set[str]:
    """Short names of a group: its method with and without settings, but without the dataset and network."""
    method = label.rpartition(": ")[2]
    return {method.casefold(), method.partition(", ")[0].casefold()}


def _name(run: Run) -> str | None:
    """The name in a run's spec, even if the rest of the spec is not valid here."""
    try:
        return str(read_file(run.path / "spec.toml").get("name"))
    except UsageError:
        return None


def read_finished(run: Run) -> Finished:
    """Read a finished run with its spec and summary.

    Raises:
        UsageError: The run is not finished, or its files are damaged.
    """
    if (problem := run.summary_problem()) is not None:
        raise UsageError(
            f"The summary of the run {run.id} is damaged: {problem}.",
            "Resume it with `tekapctl resume`, or leave it out.",
        )
    summary = run.summary()
    if run.kind() is None:
        raise UsageError(
            f"The spec of the run {run.id} is damaged.", f"`tekapctl runs verify {run.id}` shows what is wrong."
        )
    if run.status != "finished" or summary is None:
        raise UsageError(f"The run {run.id} is not finished.", "Leave it out, or finish it with `tekapctl resume`.")
    return Finished(run, load_of_run(run.path), summary)


def words_of(spec: TeacherSpec | StudentSpec) -> str:
    """The method of a run in words, without its settings."""
    if isinstance(spec, TeacherSpec):
        return NO_DISTILLATION
    return spec.method.name + (" + TeKAP" if spec.augmented else " + views" if spec.angular.views else "")


def datasets_of(firsts: Mapping[str, Finished]) -> dict[str, str]:
    """Names of the datasets; image folders of the same name are distinguished by their fingerprints."""
    sections = {key: one.spec.data for key, one in firsts.items()}
    names = {
        key: Path(section.folder).name if section.folder and section.fingerprint else section.name
        for key, section in sections.items()
    }
    for name in set(names.values()):
        fingerprints = {key: sections[key].fingerprint for key in names if names[key] == name}
        if len(set(fingerprints.values())) > 1:
            names |= {key: f"{name} {(each or 'unknown images')[:8]}" for key, each in fingerprints.items()}
    return names


def _follows_from_a_name(field: str, tables: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all tables with the same optimizer, or the same schedule, have the same value of one of its fields."""
    section = field.rpartition(".")[0]
    if section not in CHOICES or field == f"{section}.name":
        return False
    pairs = {(table.get(f"{section}.name"), repr(table.get(field))) for table in tables}
    return len(pairs) == len({name for name, _ in pairs})


def field_in_words(field: str, value: object) -> str:
    """A field of a spec as part of a label."""
    if field == "data.unlabelled_fingerprint":
        return "no unlabelled images" if value is None else f"unlabelled images {str(value)[:8]}"
    if field == "continues.epochs":
        return "in one go" if value is None else f"continued after {str(value).replace(' + ', ' and ')} epochs"
    if isinstance(value, str):
        value = short_reference(value)
    if isinstance(value, float):
        value = f"{value:.6g}"
    return f"{field.removesuffix('.name')} {'unset' if value is None else value}"


def short_reference(name: str) -> str:
    """The end of a run's id, which all commands accept too; other names as they are."""
    run = _RUN_ID.fullmatch(name)
    return run[1] if run else name


def distinctive(tables: Sequence[Table]) -> list[str]:
    """The fields in which experiments differ, those that follow from another one left out."""
    return [
        field
        for field in sorted({field for table in tables for field in table})
        if field not in ("data.fingerprint", "teacher_digest")
        and len({repr(table.get(field)) for table in tables}) > 1
        and not _follows_from_a_name(field, tables)
    ]


def _distinct(words: dict[str, str], tables: dict[str, Table]) -> dict[str, str]:
    """Labels that add the fields in which specs with the same words differ."""
    labels = {}
    for key, word in words.items():
        alike = [tables[other] for other, its_word in words.items() if its_word == word]
        more = [field_in_words(field, tables[key].get(field)) for field in distinctive(alike)]
        labels[key] = ", ".join([word, *more])
    return with_teachers_digests(labels, tables)


def with_teachers_digests(labels: Mapping[str, str], tables: Mapping[str, Table]) -> dict[str, str]:
    """Labels, those that several experiments have with the digests of their teachers: rare, only these differ."""
    named = list(labels.values())
    return {
        key: label if named.count(label) == 1 else f"{label}, teacher {str(tables[key].get('teacher_digest'))[:8]}"
        for key, label in labels.items()
    }
