"""The table of papers: methods as rows, and teacher/student pairs as columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import (
    NO_DISTILLATION,
    Finished,
    Group,
    Table,
    by_experiment,
    datasets_of,
    distinctive,
    field_in_words,
    short_names,
    short_reference,
    with_teachers_digests,
    words_of,
)
from tekapctl.experiments.comparison.statistics import ALPHA, Difference, Summary, holm
from tekapctl.experiments.comparison.table import difference
from tekapctl.spec import StudentSpec

_OF_A_PAIR = (
    *("student", "model", "teacher", "teacher_model", "teacher_args", "teacher_digest", "kind"),
    *("ensemble", "ensemble_digests", "data.name", "data.fingerprint"),
)
"""Fields that belong to a column."""


@dataclass(frozen=True)
class Pair:
    """A column: a dataset, a teacher and a student. Teachers of one network with different weights are different."""

    dataset: str
    teacher: str
    student: str


@dataclass(frozen=True)
class Cell:
    """A method's results with a pair; accuracies are fractions from 0 to 1.

    Attributes:
        top1: Top-1 accuracy after the last epoch, over seeds.
        difference: Its difference from the baseline with this pair, paired by seed; None for the baseline.
        p_holm: The p-value, Holm-adjusted for all cells of the table.
        best: Whether no other mean of the column is higher, in percent with two digits.
    """

    top1: Summary
    difference: Difference | None
    p_holm: float | None
    best: bool

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def mark(self) -> str:
        """`*` if it is significantly better than the baseline, `†` if it is significantly worse, else nothing."""
        if not self.significant or self.difference is None:
            return ""
        return "*" if self.difference.mean > 0 else "†"


@dataclass(frozen=True)
class PairTable:
    """The table.

    Attributes:
        pairs: Its columns.
        teachers: The teachers' top-1 accuracies, over teachers with different weights; None where unknown.
        rows: The cells of each method by its label; None where it has no run with a pair.
        baseline: Label of the row with which the others are compared.
        varying: The fields in which the runs of a row differ between pairs, by its label.
        left_out: Labels of networks without a teacher that are no pair's student.
    """

    pairs: list[Pair]
    teachers: list[Summary | None]
    rows: dict[str, list[Cell | None]]
    baseline: str
    varying: dict[str, list[str]]
    left_out: list[str]

    @property
    def seeds(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a cell."""
        found = [cell.top1.seeds for cells in self.rows.values() for cell in cells if cell is not None]
        return min(found), max(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [
            {
                "label": label,
                "cells": [
                    None if cell is None else {**asdict(cell), "significant": cell.significant} for cell in cells
                ],
            }
            for label, cells in self.rows.items()
        ]
        pairs = [
            {**asdict(pair), "teacher_top1": None if top1 is None else top1.mean}
            for pair, top1 in zip(self.pairs, self.teachers, strict=True)
        ]
        return {"baseline": self.baseline, "pairs": pairs, "rows": rows}


def by_pair(found: Iterable[Finished], baseline: str | None = None) -> PairTable:
    """Arrange runs by method and pair, and compare all methods with the baseline, separately for each pair.

    Args:
        found: Finished runs. Networks that were trained without a teacher are in the columns of which they are the
            student.
        baseline: Label of a row, its method, or a run in it. None for training without a teacher, else the first row.

    Raises:
        UsageError: No run has a teacher, or no row or several fit the baseline.
    """
    by_spec, tables = by_experiment(found)
    firsts = {key: runs[min(runs)] for key, runs in by_spec.items()}
    datasets = datasets_of(firsts)
    columns = _columns(firsts, datasets)
    if not columns:
        raise UsageError("None of these runs has a teacher, so there are no pairs.", "Compare them without `by_pair`.")
    undistilled = [key for key, first in firsts.items() if not isinstance(first.spec, StudentSpec)]
    placed = set()
    for pair, keys in columns.items():
        alone = [
            key for key in undistilled if (datasets[key], firsts[key].spec.network) == (pair.dataset, pair.student)
        ]
        placed.update(alone)
        keys[:0] = alone
    labels = _labels(columns, firsts, tables)
    order = [label for key, label in labels.items() if key in placed] + list(labels.values())
    cells = {
        (label, pair): Group(label, by_spec[key])
        for pair, keys in columns.items()
        for key, label in ((key, labels[key]) for key in keys)
    }
    rows = list(dict.fromkeys(order))
    by_id = {one.run.id: labels[key] for key, runs in by_spec.items() if key in labels for one in runs.values()}
    against = _baseline(rows, by_id.get(baseline or "", baseline))
    return PairTable(
        list(columns),
        [_teachers_top1([firsts[key] for key in keys]) for keys in columns.values()],
        _compared(cells, rows, list(columns), against),
        against,
        _varying(labels, columns, tables),
        [f"{firsts[key].spec.network} on {datasets[key]}" for key in undistilled if key not in placed],
    )


def _columns(firsts: Mapping[str, Finished], datasets: Mapping[str, str]) -> dict[Pair, list[str]]:
    """The experiments of each pair, in the order of the pairs' first runs."""
    found: dict[tuple[Pair, tuple[str, ...]], list[str]] = {}
    names: dict[tuple[Pair, tuple[str, ...]], str] = {}
    for key, first in firsts.items():
        if isinstance(first.spec, StudentSpec):
            weights = (first.spec.teacher_digest or first.spec.teacher, *first.spec.ensemble_digests)
            place = (Pair(datasets[key], _teacher(first), first.spec.network), weights)
            found.setdefault(place, []).append(key)
            names.setdefault(place, short_reference(first.spec.teacher))
    columns = {}
    for (pair, weights), keys in found.items():
        alike = [name for (other, _), name in names.items() if other == pair]
        if len(alike) > 1:
            name = names[pair, weights]
            which = name if alike.count(name) == 1 else weights[0][:8]
            columns[replace(pair, teacher=f"{pair.teacher} ({which})")] = keys
        else:
            columns[pair] = keys
    return columns


def _teacher(run: Finished) -> str:
    """The teacher's network; an ensemble's first with their number."""
    teacher = run.summary.get("teacher") or {}
    count = len(getattr(run.spec, "ensemble", ()))
    name = str(teacher.get("model", getattr(run.spec, "teacher", "")))
    return f"{name} + {count} more" if count else name


def _labels(
    columns: Mapping[Pair, Sequence[str]], firsts: Mapping[str, Finished], tables: Mapping[str, Table]
) -> dict[str, str]:
    """A label for each experiment: equal ones are in one row, and no two of a column are equal."""
    words = {key: words_of(firsts[key].spec) for keys in columns.values() for key in keys}
    fields: dict[str, set[str]] = {word: set() for word in words.values()}
    for keys in columns.values():
        for word in fields:
            fields[word].update(distinctive([tables[key] for key in keys if words[key] == word]))
    labels = {
        key: ", ".join([word, *(field_in_words(field, tables[key].get(field)) for field in sorted(fields[word]))])
        for key, word in words.items()
    }
    for keys in columns.values():
        labels |= with_teachers_digests({key: labels[key] for key in keys}, tables)
    return labels


def _baseline(rows: Sequence[str], wanted: str | None) -> str:
    if wanted is None:
        return next((label for label in rows if label.partition(", ")[0] == NO_DISTILLATION), rows[0])
    fitting = [label for label in rows if label == wanted]
    fitting = fitting or [label for label in rows if wanted.casefold() in short_names(label)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} rows match {wanted!r}." if fitting else f"There is no row {wanted!r}."
        raise UsageError(problem, f"Choose one of: {'; '.join(rows)}.")
    return fitting[0]


def _teachers_top1(firsts: Sequence[Finished]) -> Summary | None:
    found = {}
    for first in firsts:
        teacher = first.summary.get("teacher") or {}
        if teacher.get("top1") is not None:
            found[teacher.get("digest")] = float(teacher["top1"])
    return Summary.of(list(found.values()))


def _compared(
    groups: Mapping[tuple[str, Pair], Group], rows: Sequence[str], pairs: Sequence[Pair], baseline: str
) -> dict[str, list[Cell | None]]:
    """The cells, with their differences from the baseline of their column."""
    differences = {
        (label, pair): difference(one, groups[baseline, pair])
        for (label, pair), one in groups.items()
        if label != baseline and (baseline, pair) in groups
    }
    names = {place: str(number) for number, place in enumerate(differences)}
    adjusted = holm(
        {names[place]: d.p_value for place, d in differences.items() if d is not None and d.p_value is not None}
    )
    means = {place: round(100 * sum(one.top1) / len(one.top1), 2) for place, one in groups.items()}
    best = {pair: max(mean for (_, its), mean in means.items() if its == pair) for pair in pairs}
    found: dict[str, list[Cell | None]] = {}
    for label in rows:
        found[label] = []
        for pair in pairs:
            place = (label, pair)
            top1 = Summary.of(groups[place].top1) if place in groups else None
            found[label].append(
                None
                if top1 is None
                else Cell(top1, differences.get(place), adjusted.get(names.get(place, "")), means[place] == best[pair])
            )
    return found


def _varying(
    labels: Mapping[str, str], columns: Mapping[Pair, Sequence[str]], tables: Mapping[str, Table]
) -> dict[str, list[str]]:
    """The fields in which the experiments of a row differ, besides those of its columns."""
    there = {key for keys in columns.values() for key in keys}
    found = {}
    for label in dict.fromkeys(labels.values()):
        row = [tables[key] for key in there if labels[key] == label]
        fields = [field for field in distinctive(row) if field not in _OF_A_PAIR] if len(row) > 1 else []
        if fields:
            found[label] = fields
    return found
