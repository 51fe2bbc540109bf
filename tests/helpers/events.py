"""What TensorBoard's files have of a run, and what they should have."""

from pathlib import Path
from typing import Any

import pytest

from tekapctl.store.run import Run
from tekapctl.tracking.tracker import grouped


def in_tensorboard(run: Path) -> dict[str, dict[int, float]]:
    """Scalars by name and step; a step that is there twice fails."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {}
    for name in found.Tags()["scalars"]:
        events = found.Scalars(name)
        scalars[name] = {event.step: event.value for event in events}
        assert len(scalars[name]) == len(events), f"{name} has steps twice"
    return scalars


def in_metrics(run: Run) -> dict[str, dict[int, Any]]:
    """The same of metrics.jsonl, as numbers of 32 bits, which is what TensorBoard keeps."""
    found: dict[str, dict[int, Any]] = {}
    for entry in run.metrics():
        for name, value in grouped(entry).items():
            found.setdefault(name, {})[entry["epoch"]] = pytest.approx(value, rel=1e-6)
    return found
