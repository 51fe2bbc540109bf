"""The progress of a run, read from its files without disturbing it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.metrics import has_top1, top1_of
from tekapctl.store.run import Run, Status

_NEEDED = ("epoch", "train_loss", "train_top1", "images_per_second", "train_seconds", "test_seconds")
_RECENT = 5
"""Number of the latest epochs that the estimate of the remaining time uses."""


@dataclass(frozen=True)
class Progress:
    """How far a run has got.

    Attributes:
        run: Its id.
        status: Its status.
        epoch: Finished epochs.
        epochs: Total epochs, if known.
        step: Recorded steps of the current epoch.
        steps: Steps per epoch, if known.
        best_top1: Best top-1 accuracy so far, a fraction.
        best_epoch: Epoch of the best top-1.
        seconds_left: Estimated remaining time; None if unknown or if the run is not running.
        error: Why it failed.
        metrics: The metrics of each epoch.
    """

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
    if not run.path.is_dir():
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
