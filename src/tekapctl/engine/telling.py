"""Who else is told how a run goes on, besides the user."""

import time
from contextlib import suppress

from tekapctl.engine.epoch_sums import Metrics
from tekapctl.engine.trainer import Listener
from tekapctl.store.runs import Run

SECONDS = 2.0
"""How often at most a run notes how far it is within its epoch."""


class Unheard:
    """Tells nobody: the listener of the processes that do not lead."""

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""


class Notes:
    """Notes in the run's folder how far it is, for those who watch it from outside, and passes on what it is told.

    Args:
        run: The run.
        listener: Is told all of it too.
    """

    def __init__(self, run: Run, listener: Listener) -> None:
        self.run = run
        self.listener = listener

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""
        self._epochs, self._steps = epochs, steps
        self._begin()
        self._note(first_epoch, 0)
        self.listener.on_start(epochs, steps, first_epoch)

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""
        self._done += 1
        if time.monotonic() - self._noted > SECONDS:
            self._note(epoch, step + 1)
        self.listener.on_step(epoch, step)

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""
        self._begin()
        self._note(int(metrics["epoch"]), 0)
        self.listener.on_epoch(metrics)

    def _begin(self) -> None:
        self._began, self._done = time.monotonic(), 0

    def _note(self, epoch: int, step: int) -> None:
        self._noted = time.monotonic()
        rate = self._done / max(self._noted - self._began, 1e-9)
        note = {"epoch": epoch, "epochs": self._epochs, "step": step, "steps": self._steps, "steps_per_second": rate}
        with suppress(OSError):  # nobody's run ends for want of a note
            self.run.write_progress(note)
