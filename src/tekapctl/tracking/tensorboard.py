"""TensorBoard: event files in the run's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tekapctl.errors import require
from tekapctl.settings import flat_items
from tekapctl.tracking.tracker import TRACKERS, Metrics, Tracker, grouped


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Scalars by epoch in `tensorboard/`; a resumed run continues after the last stored epoch."""

    @classmethod
    def check(cls) -> None:
        """Needs TensorBoard; its server need not run."""
        require("tensorboard", "tensorboard")
        require("tensorboard", "torch.utils.tensorboard")

    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        """Open an event file that purges later epochs from older files."""
        from torch.utils.tensorboard import SummaryWriter

        events = folder / "tensorboard"
        known = min(_epochs_in(events), epochs)
        self._writer = SummaryWriter(str(events), purge_step=known + 1)
        if not known:
            lines = [f"    {name} = {value!r}" for name, value in flat_items(spec)]
            self._writer.add_text("spec", "\n".join([f"{run}\n", *lines]), 0)
        self._writer.flush()
        return known

    def log(self, metrics: Metrics, epoch: int) -> None:
        for name, value in grouped(metrics).items():
            self._writer.add_scalar(name, value, epoch)
        # So that a viewer sees the epoch at once, and nothing is lost if the run is killed.
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._writer.close()


def _epochs_in(events: Path) -> int:
    """Number of complete epochs, from the first on, in a folder's files."""
    if not events.is_dir():
        return 0
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    found = EventAccumulator(str(events), size_guidance={SCALARS: 0}).Reload()
    # `log` writes this scalar last.
    steps = {event.step for event in found.Scalars(_LAST)} if _LAST in found.Tags()[SCALARS] else set()
    return next(epoch for epoch in range(len(steps) + 1) if epoch + 1 not in steps)


_LAST = "test/seconds"
