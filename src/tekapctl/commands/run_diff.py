"""Two runs side by side: where their specs and environments differ, and their results. Imports no PyTorch."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.store.metrics import has_top1, top1_of
from tekapctl.store.run import Run

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


def flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested table by their dotted paths; an empty table is a value."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    ours, theirs = dict(flat(one)), dict(flat(other))
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
