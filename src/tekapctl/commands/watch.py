"""A run as it stands, seen from outside: read from its files, and never in its way."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.run import Run, Status

_NEEDED = ("epoch", "train_loss", "train_top1", "test_top1", "images_per_second", "train_seconds", "test_seconds")
_RECENT = 5
"""How many of the last epochs say how long the next ones take."""


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        run: Its id.
        status: Whether it goes on.
        epoch: Epochs done.
        epochs: Epochs in all, if it is known.
        step: Steps done of the epoch under way, as far as they were noted.
        steps: Steps of an epoch, if it is known.
        best_top1: The best top-1 so far, as a share.
        best_epoch: Its epoch.
        seconds_left: About how long it will take; None where nothing tells, or it does not run.
        error: Why it failed.
        metrics: All epochs' metrics.
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
        """All of it as plain values."""
        return asdict(self)


def look(run: Run) -> State:
    """A run's state.

    Raises:
        TekapctlError: Its folder is gone.
    """
    # The status comes first: what is read after the run has ended is all that there will be.
    status = run.status
    if not run.path.is_dir():
        raise TekapctlError(f"The run {run.id} was removed.", "`tekapctl runs list` lists the runs.")
    metrics: list[dict[str, Any]] = [
        {name: int(value) if name == "epoch" else float(value) for name, value in entry.items()}
        for entry in run.metrics()
        if all(name in entry for name in _NEEDED)
    ]
    noted = run.progress()
    epoch = metrics[-1]["epoch"] if metrics else 0
    epochs = int(noted.get("epochs", 0)) or None
    steps = int(noted.get("steps", 0)) or None
    # A note of another epoch is one from before the last line of metrics.
    step = int(noted.get("step", 0)) if steps and status != "finished" and noted.get("epoch") == epoch else 0
    # A first stage has no best epoch: the student is not yet what it will be.
    counted = [entry for entry in metrics if "train_first_stage" not in entry]
    best = max(counted, key=lambda entry: entry["test_top1"], default=None)
    error = (run.summary() or {}).get("error")
    return State(
        run=run.id,
        status=status,
        epoch=epoch,
        epochs=epochs,
        step=step,
        steps=steps,
        best_top1=best["test_top1"] if best else None,
        best_epoch=best["epoch"] if best else None,
        seconds_left=_left(metrics, epochs, step, steps, float(noted.get("steps_per_second", 0)))
        if status == "running"
        else None,
        error=None if error is None else str(error),
        metrics=metrics,
    )


def _left(metrics: list[dict[str, Any]], epochs: int | None, step: int, steps: int | None, rate: float) -> float | None:
    """Seconds that a run will take, by its last epochs; by its steps while there is no epoch yet."""
    if epochs is None:
        return None
    recent = metrics[-_RECENT:]
    if recent:
        an_epoch = sum(entry["train_seconds"] + entry["test_seconds"] for entry in recent) / len(recent)
    elif steps and rate > 0:
        an_epoch = steps / rate
    else:
        return None
    done = (metrics[-1]["epoch"] if metrics else 0) + (step / steps if steps else 0)
    left = max(0.0, an_epoch * (epochs - done))
    return left if math.isfinite(left) else None
