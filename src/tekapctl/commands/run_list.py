"""The list of runs: a row for each, filtered, sorted and limited. Nothing here imports PyTorch."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tekapctl.errors import UsageError
from tekapctl.store.metrics import has_top1, top1_of
from tekapctl.store.run import Run, Status

COLUMNS = (
    *("run", "id", "status", "kind", "dataset", "method", "model", "teacher", "name", "continues"),
    *("seed", "epochs", "epoch", "last_top1", "best_top1", "seconds"),
)
"""The fields of a row."""
STATUSES = get_args(Status)
Row = dict[str, Any]


def row_of(run: Run) -> Row:
    """What the list shows of a run, apart from its short id."""
    summary, metrics = run.summary() or {}, run.metrics()
    last, seconds = metrics[-1] if metrics else {}, summary.get("seconds")
    # Epochs of the init stage cannot be the best: the student is not trained yet.
    counted = [top1_of(entry) for entry in metrics if has_top1(entry) and "train_init" not in entry]
    return {
        "run": run.id,
        "status": run.status,
        **_described(run),
        "epoch": last.get("epoch", 0),
        "last_top1": _fraction(summary.get("last_top1"), top1_of(last) if has_top1(last) else None),
        "best_top1": _fraction(summary.get("best_top1"), max(counted, default=None)),
        "seconds": seconds if isinstance(seconds, (int, float)) else None,
    }


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """A row for each run, in the same order, with a short id where that is unique among them."""
    rows = [row_of(run) for run in runs]
    ends = Counter(row["run"].rpartition("-")[2] for row in rows)
    for row in rows:
        end = row["run"].rpartition("-")[2]
        row["id"] = end if ends[end] == 1 else row["run"]
    return rows


def _fraction(final: Any, so_far: float | None) -> float | None:
    """The accuracy of a finished run, on the test images, or that of the epochs so far."""
    return float(final) if isinstance(final, int | float) else so_far


def _described(run: Run) -> Row:
    """What a run's spec says, read as plain TOML: checking it would import PyTorch."""
    spec = run.spec_table()
    data, method, continues = (
        value if isinstance(value := spec.get(field), dict) else {"name": value}
        for field in ("data", "method", "continues")
    )
    dataset = data.get("name")
    where = "repository" if dataset == "hf" else "folder"
    if dataset in ("folder", "imagenet", "hf") and data.get(where):
        dataset = f"{dataset}:{data[where]}"
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

    Args:
        rows: The rows.
        wanted: Values by column. A teacher may also be given as the end of its run's id, and image folders without
            their path.

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
    near = difflib.get_close_matches(given, known, n=2, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(problem, f"{guess}{what}: {', '.join(known)}.")
