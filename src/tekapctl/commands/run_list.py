"""The list of runs, filtered and sorted, and two of them side by side. Nothing here imports PyTorch."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tekapctl.errors import UsageError
from tekapctl.registry import did_you_mean
from tekapctl.settings import flat_items
from tekapctl.store.metrics import has_top1, top1_of
from tekapctl.store.run import Run, Status

COLUMNS = (
    *("run", "id", "status", "kind", "dataset", "method", "model", "teacher", "name", "continues"),
    *("seed", "epochs", "epoch", "last_top1", "best_top1", "seconds"),
)
"""The fields of a row."""
STATUSES = get_args(Status)
Row = dict[str, Any]


def row_of(run: Run, located_by: Mapping[str, str]) -> Row:
    """What the list shows of a run, apart from its short id.

    Args:
        run: The run.
        located_by: The field that may follow a dataset's name after a colon, by dataset.
    """
    summary, metrics = run.summary() or {}, run.metrics()
    last, seconds = metrics[-1] if metrics else {}, summary.get("seconds")
    # Epochs of the init stage cannot be the best: the student is not trained yet.
    counted = [top1_of(entry) for entry in metrics if has_top1(entry) and "train_init" not in entry]
    return {
        "run": run.id,
        "status": run.status,
        **_described(run, located_by),
        "epoch": last.get("epoch", 0),
        "last_top1": _fraction(summary.get("last_top1"), top1_of(last) if has_top1(last) else None),
        "best_top1": _fraction(summary.get("best_top1"), max(counted, default=None)),
        "seconds": seconds if isinstance(seconds, (int, float)) else None,
    }


def rows_of(runs: Iterable[Run], located_by: Mapping[str, str]) -> list[Row]:
    """A row for each run, in the same order, with a short id where that is unique among them."""
    rows = [row_of(run, located_by) for run in runs]
    ends = Counter(row["run"].rpartition("-")[2] for row in rows)
    for row in rows:
        end = row["run"].rpartition("-")[2]
        row["id"] = end if ends[end] == 1 else row["run"]
    return rows


def _fraction(final: Any, so_far: float | None) -> float | None:
    """The accuracy of a finished run, on the test images, or that of the epochs so far."""
    return float(final) if isinstance(final, int | float) else so_far


def _described(run: Run, located_by: Mapping[str, str]) -> Row:
    """What a run's spec says, read as plain TOML: checking it would import PyTorch."""
    spec = run.spec_table()
    data, method, continues = (
        value if isinstance(value := spec.get(field), dict) else {"name": value}
        for field in ("data", "method", "continues")
    )
    dataset = data.get("name")
    field = located_by.get(dataset) if isinstance(dataset, str) else None
    if field is not None and data.get(field):
        dataset = f"{dataset}:{data[field]}"
    is_student = spec.get("kind") == "student"
    found = {
        "kind": spec.get("kind"),
        "dataset": dataset,
        "method": method.get("name") if is_student else None,
        "model": spec.get("student") if is_student else spec.get("model"),
        "teacher": spec.get("teacher") if is_student else None,
        "name": spec.get("name"),
        "continues": continues.get("run"),
    }
    texts = {field: value if isinstance(value, str) else None for field, value in found.items()}
    numbers = {field: value if type(value := spec.get(field)) is int else None for field in ("seed", "epochs")}
    return {**texts, **numbers}


def select(rows: Sequence[Row], wanted: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows with one of the wanted values in each column that has any.

    A teacher may also be given as the end of its run's id, and a dataset without what follows the colon.

    Raises:
        UsageError: No run can have such a status.
    """
    for status in wanted.get("status", ()):
        if status not in STATUSES:
            raise _unknown(f"There is no status {status!r}.", status, "Statuses", STATUSES)
    columns = {column: values for column, values in wanted.items() if values}
    return [
        row
        for row in rows
        if all(any(_fits(column, row[column], value) for value in values) for column, values in columns.items())
    ]


def _fits(column: str, found: str | None, value: str) -> bool:
    if found is None:
        return False
    if found == value:
        return True
    if column == "teacher":
        return found.endswith(f"-{value}")
    if column == "dataset":
        name, _, path = found.partition(":")
        wanted_name, colon, wanted_path = value.partition(":")
        return name == wanted_name and (not colon or (path != "" and Path(path) == Path(wanted_path).resolve()))
    return False


def missing(rows: Sequence[Row], wanted: Mapping[str, Sequence[str]]) -> str | None:
    """A sentence about a wanted value that no run has; None if each is there, though not together."""
    for column, values in wanted.items():
        for value in values:
            if not any(_fits(column, row[column], value) for row in rows):
                there = sorted({row[column] for row in rows if row[column] is not None})
                shown = f"{', '.join(there[:8])}{', ...' if len(there) > 8 else ''}" or "none"
                return f"No run has the {column} {value!r}; the runs have: {shown}."
    return None


def ordered(rows: Sequence[Row], column: str, *, reverse: bool = False) -> list[Row]:
    """The rows sorted by a column; those without a value are always last.

    Raises:
        UsageError: There is no such column.
    """
    if column not in COLUMNS:
        raise _unknown(f"There is no column {column!r} to sort by.", column, "Columns", COLUMNS)
    known = [row for row in rows if row[column] is not None]
    return [
        *sorted(known, key=lambda row: row[column], reverse=reverse),
        *(row for row in rows if row[column] is None),
    ]


def _unknown(problem: str, given: str, what: str, known: Sequence[str]) -> UsageError:
    return UsageError(problem, f"{did_you_mean(given, known)} {what}: {', '.join(known)}.".lstrip())


RESULTS = ("last_top1", "best_top1", "best_epoch", "raw_top1", "last_val_top1", "best_val_top1", "seconds")
EVALUATION = ("top5", "negative_log_likelihood", "calibration_error", "agreement", "parameters", "macs")
_POINTS = 8
"""Epochs at which the accuracies of both runs are shown."""
Pair = list[Any]
"""A value of the first run and one of the second; None where a run has none."""


def difference(one: Run, other: Run) -> dict[str, Any]:
    """What is different between two runs, and their results, as plain values.

    Returns:
        `runs` (both ids), `status`, `spec` and `environment` (pairs of values by dotted path, of those that differ),
        `results` (pairs, of those that one of them has), and `epochs`: accuracies at some epochs that both have.

    Raises:
        UsageError: Both are the same run, or the spec of one is damaged.
    """
    if one == other:
        raise UsageError(f"Both runs are {one.id}.", "Name two different runs.")
    for run in (one, other):
        if run.kind() is None:
            raise UsageError(
                f"The spec of the run {run.id} is damaged.", f"`tekapctl runs verify {run.id}` shows what is wrong."
            )
    both = (one, other)
    return {
        "runs": [run.id for run in both],
        "status": [run.status for run in both],
        "spec": _differing(*(run.spec_table() for run in both)),
        "environment": _differing(*(run.environment() for run in both)),
        "results": _results(*(run.summary() or {} for run in both)),
        "epochs": _epochs(*(run.metrics() for run in both)),
    }


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    ours, theirs = dict(flat_items(one)), dict(flat_items(other))
    return {
        path: [_plain(ours.get(path)), _plain(theirs.get(path))]
        for path in dict.fromkeys([*ours, *theirs])
        if ours.get(path) != theirs.get(path)
    }


def _plain(value: Any) -> Any:
    """A value that JSON has; dates and infinite numbers, which TOML has too, as text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value


def _results(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    found: dict[str, Pair] = {}
    for field in RESULTS:
        found[field] = [_number(summary, field) for summary in (one, other)]
    for field in EVALUATION:
        found[field] = [_number(summary.get("evaluation") or {}, field) for summary in (one, other)]
    return {field: pair for field, pair in found.items() if pair != [None, None]}


def _number(table: Mapping[str, Any], field: str) -> int | float | None:
    value = table.get(field)
    return value if type(value) in (int, float) else None


def _epochs(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The accuracies after up to eight epochs that both runs have, evenly spaced, the last of them included."""
    ours, theirs = ({int(m["epoch"]): m for m in metrics if "epoch" in m and has_top1(m)} for metrics in (one, other))
    common = sorted(ours.keys() & theirs.keys())
    count = min(_POINTS, len(common))
    shown = [common[round((number + 1) * len(common) / count) - 1] for number in range(count)]
    return [{"epoch": epoch, "top1": [top1_of(ours[epoch]), top1_of(theirs[epoch])]} for epoch in shown]
