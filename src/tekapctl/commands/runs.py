"""The progress of a run, read without disturbing it, and a check of its files against their checksums."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tekapctl.errors import TekapctlError, counted
from tekapctl.store.metrics import has_top1, top1_of
from tekapctl.store.run import MARK, WEIGHTS, Run, Status

_NEEDED = ("epoch", "train_loss", "images_per_second", "train_seconds", "test_seconds")
_RECENT = 5
"""Number of the latest epochs that the estimate of the remaining time uses."""
TOLERANCE = 1e-5
"""Tolerance of the top-1 in the weights' metadata, which has six digits."""


@dataclass(frozen=True)
class Progress:
    """How far a run has got: finished epochs, and recorded steps of the current one. What is unknown is None."""

    run: str
    status: Status
    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    best_top1: float | None
    best_epoch: int | None
    seconds_left: float | None
    error: str | None
    metrics: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def progress_of(run: Run) -> Progress:
    """Read a run's progress.

    Raises:
        TekapctlError: Its folder was removed.
    """
    # Read the status first: if the run has ended, the files read next are final.
    status = run.status
    # A run that goes on without its folder may make it again, empty.
    if not any((run.path / name).exists() for name in ("spec.toml", MARK)):
        raise TekapctlError(f"The run {run.id} was removed.", "`tekapctl runs list` lists the runs.")
    metrics: list[dict[str, Any]] = [
        {name: int(value) if name == "epoch" else float(value) for name, value in entry.items()}
        for entry in run.metrics()
        if has_top1(entry) and all(name in entry for name in _NEEDED)
    ]
    recorded = run.progress()
    epoch = metrics[-1]["epoch"] if metrics else 0
    epochs = int(recorded.get("epochs", 0)) or None
    steps = int(recorded.get("steps", 0)) or None
    # A record of another epoch is older than the last line of metrics.
    step = int(recorded.get("step", 0)) if steps and status != "finished" and recorded.get("epoch") == epoch else 0
    # Epochs of the init stage cannot be the best: the student is not trained yet.
    counted = [entry for entry in metrics if "train_init" not in entry]
    best = max(counted, key=top1_of, default=None)
    error = (run.summary() or {}).get("error")
    left = None
    if status == "running" and epochs is not None:
        left = _left(metrics, epochs, step, steps, float(recorded.get("steps_per_second", 0)))
    return Progress(
        run=run.id,
        status=status,
        epoch=epoch,
        epochs=epochs,
        step=step,
        steps=steps,
        best_top1=top1_of(best) if best else None,
        best_epoch=best["epoch"] if best else None,
        seconds_left=left,
        error=None if error is None else str(error),
        metrics=metrics,
    )


def _left(metrics: list[dict[str, Any]], epochs: int, step: int, steps: int | None, rate: float) -> float | None:
    """Remaining seconds, estimated from the latest epochs, or from the steps of the first one."""
    if recent := metrics[-_RECENT:]:
        epoch_seconds = sum(entry["train_seconds"] + entry["test_seconds"] for entry in recent) / len(recent)
    elif steps and rate > 0:
        epoch_seconds = steps / rate
    else:
        return None
    done = (metrics[-1]["epoch"] if metrics else 0) + (step / steps if steps else 0)
    left = max(0.0, epoch_seconds * (epochs - done))
    return left if math.isfinite(left) else None


@dataclass(frozen=True)
class Verified:
    """The result of checking a run: how many files match their checksum, and what is wrong.

    `left_out` are weights that the run was imported without, which is nothing wrong.
    """

    run: str
    status: str
    files: int
    problems: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def verify(run: Run) -> Verified:
    """Read all files of a run and check them."""
    problems, intact = list(_problems(run)), 0
    weights = [run.path / name for name in WEIGHTS.values() if (run.path / name).is_file()]
    for path in [*weights, *sorted(run.checkpoints.glob("*.state"))]:
        try:
            intact += _check_weights(run, path) if path in weights else _check_checkpoint(path)
        except TekapctlError as error:
            problems.append(error.problem)
    return Verified(run.id, run.status, intact, tuple(problems), tuple(sorted(run.left_out)))


def _problems(run: Run) -> Iterator[str]:
    """What is wrong with a run's text files, and which of its files are missing."""
    is_finished = (run.summary() or {}).get("status") == "finished"
    if run.kind() is None:
        yield "spec.toml cannot be read, or is not the spec of a teacher or a student."
    if (problem := run.summary_problem()) is not None:
        yield f"summary.json is damaged: {problem}."
    metrics = run.path / "metrics.jsonl"
    if metrics.exists():
        try:
            lines = sum(1 for line in metrics.read_text(encoding="utf-8").splitlines() if line.strip())
            if damaged := lines - len(run.metrics()):
                yield f"metrics.jsonl has {counted(damaged, 'damaged line')}."
        except (OSError, UnicodeDecodeError) as error:
            yield f"metrics.jsonl cannot be read: {error}."
    elif is_finished:
        yield "metrics.jsonl is missing."
    if run.has_damaged_checksums:
        yield "checksums.json is damaged, so that the weights cannot be checked."
    known = set(run.checksummed)
    there = {name for name in WEIGHTS.values() if (run.path / name).is_file()}
    if is_finished and (without := there - known):
        yield f"{' and '.join(sorted(without))} cannot be checked: no checksum of it was found."
    if gone := {name for name in known - run.left_out if not (run.path / name).is_file()}:
        yield f"{' and '.join(sorted(gone))} is missing."
    if is_finished and run.weights.name not in there | known | run.left_out:
        yield f"{run.weights.name} is missing."


def _check_weights(run: Run, path: Path) -> int:
    from tekapctl.store.weights import read_metadata

    run.check_weights(path)
    metadata, summary = read_metadata(path), run.summary() or {}
    if summary.get("status") == "finished":
        epoch = next((each for each in run.metrics() if str(each.get("epoch")) == metadata.get("epoch")), {})
        expected = epoch.get("raw_top1") if path.name == WEIGHTS["raw"] else top1_of(epoch) if has_top1(epoch) else None
        try:
            is_same = abs(float(metadata["top1"]) - float("nan" if expected is None else expected)) <= TOLERANCE
        except (KeyError, ValueError):
            is_same = False
        if not is_same:
            raise TekapctlError(f"{path.name} states another top-1 than the metrics of its epoch.")
    return 1


def _check_checkpoint(path: Path) -> int:
    import torch

    from tekapctl.train import checkpoint

    try:
        checkpoint.read(path, torch.device("cpu"))
    except TekapctlError:
        if not path.exists():
            return 0  # the run is still going and has replaced it by a newer one
        raise
    return 1
